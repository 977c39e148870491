package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"lambent"
	"lambent/client"
	"lambent/test/measure"
)

// wasmLanguages are those of the functions in test/bench/wasm, all of which answer as noop does. Each tells with a
// status of 418 when its instance has served a request before, so that a request which met no pristine instance has failed.
var wasmLanguages = []struct {
	name, title string
	added       float64 // bar: what a call may take above one of noop, in us
	first       float64 // bar: what the first call after a restart of the node may take, in ms; 0 for none
}{
	{"c", "C", 150, 5}, {"rust", "Rust", 150, 5}, {"assemblyscript", "AssemblyScript", 150, 0}, {"go", "Go", 500, 150},
}

// tier is a daemon with the functions of the benchmark of the wasm tier.
type tier struct {
	*measure.Daemon
	rep     *measure.Report
	short   bool
	dir     string
	modules map[string][]byte // by language
}

// wasm measures the wasm tier. Its parts are independent of one another.
func wasm(ctx context.Context, l *measure.Daemon, dir string, short bool) error {
	b := &tier{Daemon: l, rep: measure.NewReport("wasm"), short: short, dir: dir, modules: map[string][]byte{}}
	if err := l.Deploy(ctx, "test/bench/noop", "--name", "noop"); err != nil {
		return err
	}
	for _, lang := range wasmLanguages {
		if err := l.Deploy(ctx, filepath.Join("test/bench/wasm", lang.name), "--name", lang.name); err != nil {
			return err
		}
		var err error
		if b.modules[lang.name], err = b.module(ctx, lang.name); err != nil {
			return err
		}
	}
	var err error
	for _, part := range []func(context.Context) error{b.roundTrip, b.throughput, b.first, b.loops, b.bombs, b.mutants, b.many} {
		if err = part(ctx); err != nil {
			break
		}
	}
	return errors.Join(err, b.rep.Finish())
}

// pick is long unless the run is short.
func pick[T any](b *tier, long, short T) T {
	if b.short {
		return short
	}
	return long
}

// calling is the target of a GET of a function, whose processor time is that of the daemon and its workers.
func (b *tier) calling(name, path string) (target, error) {
	t := get("Lambent "+name, b.Host, "/fn/"+name+path)
	var err error
	t.pids, err = measure.Tree(b.PID())
	return t, err
}

// roundTrip is what a pristine instance costs one caller, above the same gateway with nothing behind it.
func (b *tier) roundTrip(ctx context.Context) error {
	names := []string{"noop"}
	for _, lang := range wasmLanguages {
		names = append(names, lang.name)
	}
	var targets []target
	for _, name := range names {
		t, err := b.calling(name, "/")
		if err != nil {
			return err
		}
		targets = append(targets, t)
	}
	results, err := interleaved(ctx, targets, 1, pick(b, 9, 3), pick(b, time.Second, 300*time.Millisecond))
	if err != nil {
		return err
	}
	b.table("one", "1 connection", targets, results)
	for i, lang := range wasmLanguages {
		b.rep.AtMost("wasm_added_"+lang.name, paired(results[i+1], results[0], result.p50, minus), "us", lang.added)
	}
	return nil
}

func (b *tier) table(name, title string, targets []target, results [][]result) {
	b.rep.Row(title, "req/s", "p50", "p99", "CPU/req", "failed")
	for i, t := range targets {
		r := results[i]
		b.rep.Row(t.name, fmt.Sprintf("%.0f", median(r, result.rate)), fmt.Sprintf("%.0f us", median(r, result.p50)),
			fmt.Sprintf("%.0f us", median(r, result.p99)), fmt.Sprintf("%.0f us", median(r, result.perCall)), fmt.Sprint(failures(r)))
	}
	failed := 0
	for _, r := range results {
		failed += failures(r)
	}
	b.rep.None("wasm_failed_"+name, failed)
}

// throughput is against what answers without a sandbox, and against the isolates of workerd. The echo is compared with
// the echo, and the answer with the answer.
func (b *tier) throughput(ctx context.Context) error {
	bin, err := buildEcho(ctx, b.dir)
	if err != nil {
		return err
	}
	bare, err := startBare(ctx, b.dir, b.dir, nil, bin)
	if err != nil {
		return err
	}
	defer bare.stop()
	body := bytes.Repeat([]byte("lambent "), 8)
	proxy, stopProxy, err := startProxy(ctx, bare.socket, 0, body)
	if err != nil {
		return err
	}
	defer stopProxy()
	proxy.pids = append(proxy.pids, bare.cmd.Process.Pid)
	proxy.name = "ReverseProxy, bare echo"
	static, fresh, stopWorkerd, err := startWorkerd(ctx)
	if err != nil {
		return err
	}
	defer stopWorkerd()
	noop, err := b.calling("noop", "/")
	if err != nil {
		return err
	}
	c, err := b.calling("c", "/")
	if err != nil {
		return err
	}
	echo := function(b.Daemon, "c", body)
	echo.name, echo.pids = "Lambent c, echo", c.pids
	targets := []target{proxy, echo, noop, c, static, fresh}
	results, err := interleaved(ctx, targets, 32, pick(b, 9, 3), pick(b, 2*time.Second, time.Second))
	if err != nil {
		return err
	}
	b.table("many", "32 connections", targets, results)
	b.rep.AtLeast("wasm_throughput_to_proxy", paired(results[1], results[0], result.rate, over), "x", 1)
	b.rep.AtLeast("wasm_throughput_to_noop", paired(results[3], results[2], result.rate, over), "x", 0.4)
	b.rep.AtLeast("wasm_per_cpu_second_to_workerd_static", paired(results[4], results[3], result.perCall, over), "x", 0.9)
	b.rep.AtLeast("wasm_per_cpu_second_to_workerd_load", paired(results[5], results[3], result.perCall, over), "x", 20)
	return nil
}

// deploy deploys a module as it is.
func (b *tier) deploy(ctx context.Context, namespace, name string, module []byte, s lambent.Settings) error {
	archive, err := archived(module)
	if err != nil {
		return err
	}
	bundle, err := b.Client.Upload(ctx, archive, nil)
	if err != nil {
		return err
	}
	s.Runtime = "wasm"
	_, err = b.Client.Deploy(ctx, client.Deploy{Namespace: namespace, Name: name, Settings: s, Code: bundle.Digest})
	return err
}
