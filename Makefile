# Lambent: build, run, test, measure. `make` alone lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export CGO_ENABLED := 0
# A checkout may belong to another user than the one who builds; VERSION says what is built.
export GOFLAGS += -buildvcs=false
VERSION := $(shell git describe --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
INSIDE := executor/process/initbin
SOURCES := go.mod go.sum $(shell find . -name '*.go' -o -path './shim/*' -type f -o -path './cli/*' -type f | grep -v /testdata/)
# The race detector needs cgo; nothing that we ship does.
RACE := CGO_ENABLED=1 go test -race
# Tests of the second tier are in files *_integration_test.go, behind the tag, and named TestIntegration*. They run one
# package after the other, because some measure time, and say what they do, because some do less on slow machines.
INTEGRATION := $(RACE) -tags integration -run '^TestIntegration' -p 1 -count 1 -v -timeout 30m

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

setup: ## install what this machine lacks (Debian, idempotent)
	@scripts/setup

build: bin/lambent ## make bin/lambent, one static binary

bin/lambent: $(SOURCES)
	@mkdir -p bin $(INSIDE)
	go build -trimpath -ldflags '-s -w' -o $(INSIDE)/ ./cmd/lambent-init ./cmd/lambent-exec
	go build -trimpath -tags lambent_embed -ldflags '$(LDFLAGS)' -o $@ ./cmd/lambent

up: setup build ## start Lambent, deploy the examples, call them, show the times; ONCE=1 stops by itself
	@ONCE=$(ONCE) scripts/up

test: ## the first tier of tests: all that needs nothing but what setup installs
	@scripts/setup test
	$(RACE) -timeout 15m ./...

test-integration: ## the second tier: what needs package registries and virtual machines
	@scripts/setup integration
	$(INTEGRATION) $(sort $(dir $(shell find . -name '*_integration_test.go')))

test-cgroup2: ## of them, the process tier on control groups of version 2, in a virtual machine
	@scripts/setup integration
	$(INTEGRATION) ./test/guest

fresh: ## make up ONCE=1 on a minimal Debian, which proves what setup installs
	@scripts/setup integration
	@scripts/fresh

lint: ## go vet, golangci-lint (pinned) and generated files
	@scripts/lint

bench: bench-warm bench-cold bench-scale bench-deploy bench-wasm ## run every benchmark

bench-warm: build ## throughput and added latency against a tuned ReverseProxy
	go run ./test/bench $(if $(SHORT),-short) warm

bench-cold: build ## cold starts against bare fork and exec
	go run ./test/bench $(if $(SHORT),-short) cold

bench-scale: build ## 100,000 registered functions
	go run ./test/bench $(if $(SHORT),-short) scale

bench-deploy: build ## deploys under load, with streams across every switch
	go run ./test/bench $(if $(SHORT),-short) deploy

bench-wasm: build ## the wasm tier against workerd, a ReverseProxy and nothing at all, and against guests that mean harm
	@scripts/setup test
	@scripts/setup-bench
	go run ./test/bench $(if $(SHORT),-short) wasm

chaos: build ## break everything on purpose under load, and count on both sides what was lost; as root; SCENARIO=kill for one
	go run ./test/chaos $(if $(SHORT),-short) $(or $(SCENARIO),upgrade deploy kill crash disk)

soak: build ## a day's requests, deploys and starts in a quarter of an hour: does it grow?
	go run ./test/chaos $(if $(SHORT),-short) soak

fuzz: ## fuzz each parser for a minute
	@scripts/fuzz

clean: ## remove what was built
	rm -rf bin bench/out $(INSIDE)

.PHONY: help setup build up test test-integration test-cgroup2 fresh lint bench bench-warm bench-cold bench-scale bench-deploy bench-wasm chaos soak fuzz clean
