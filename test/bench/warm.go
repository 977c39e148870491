package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const proxyCommand = "serve-proxy"

// serveProxy is the tuned baseline: httputil.ReverseProxy with 256 idle connections per host and a buffer
// pool, in front of the unix socket. It serves until it is killed.
func serveProxy(address, socket string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	var dialer net.Dialer
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: "echo"}) },
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return dialer.DialContext(ctx, "unix", socket)
			},
			MaxIdleConns: 256, MaxIdleConnsPerHost: 256,
		},
		BufferPool: &bufferPool{},
	}
	return http.Serve(l, proxy)
}

type bufferPool struct{ pool sync.Pool }

func (b *bufferPool) Get() []byte {
	if buf, ok := b.pool.Get().(*[]byte); ok {
		return *buf
	}
	return make([]byte, 32<<10)
}

func (b *bufferPool) Put(buf []byte) { b.pool.Put(&buf) }

// startProxy runs serveProxy in a process of its own, as Lambent is one.
func startProxy(ctx context.Context, socket string, body []byte) (t target, stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return t, nil, err
	}
	cmd := exec.CommandContext(ctx, self, proxyCommand, "127.0.0.1:0", socket)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return t, nil, err
	}
	if err := cmd.Start(); err != nil {
		return t, nil, err
	}
	stop = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() } // it serves until then
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		stop()
		return t, nil, err
	}
	t = post("ReverseProxy", "tcp", strings.TrimSpace(line), "echo", "/", body)
	t.pid = cmd.Process.Pid
	return t, stop, nil
}

// buildEcho builds the program that the benchmarks call.
func buildEcho(ctx context.Context, dir string) (string, error) {
	bin := filepath.Join(dir, "echo")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w -buildid=", "-o", bin, ".")
	cmd.Dir = "test/bench/echo"
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build echo: %w: %s", err, out)
	}
	return bin, nil
}

func warm(ctx context.Context, short bool) (err error) {
	rounds, length := 9, 2*time.Second
	if short {
		rounds, length = 3, time.Second
	}
	dir, err := os.MkdirTemp("", "lambent-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	bin, err := buildEcho(ctx, dir)
	if err != nil {
		return err
	}
	echo, err := startBare(ctx, dir, nil, bin)
	if err != nil {
		return err
	}
	defer echo.stop()
	body := bytes.Repeat([]byte("lambent "), 8)
	proxy, stopProxy, err := startProxy(ctx, echo.socket, body)
	if err != nil {
		return err
	}
	defer stopProxy()
	l, err := up(ctx, filepath.Join(dir, "data"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.stop()) }()
	if err := l.deploy(ctx, "test/bench/echo", "--name", "echo", "--cpu", "2000"); err != nil {
		return err
	}
	direct := post("bare echo", "unix", echo.socket, "echo", "/", body)
	direct.pid = echo.cmd.Process.Pid
	targets := []target{direct, proxy, l.function("echo", body)}
	rep := newReport("warm")
	rep.row("connections", "target", "req/s", "p50", "p99", "CPU/req", "failed")
	failed := 0
	for _, connections := range []int{32, 1} {
		rates := make([][]float64, len(targets))
		p50s := make([][]float64, len(targets))
		p99s := make([][]float64, len(targets))
		cpus := make([][]float64, len(targets))
		fails := make([]int, len(targets))
		for round := range rounds + 1 {
			for i, t := range targets {
				r, err := load(ctx, t, connections, length)
				if err != nil {
					return err
				}
				if round == 0 {
					continue // warms up
				}
				rates[i] = append(rates[i], r.rate())
				p50s[i] = append(p50s[i], us(r.quantile(0.5)))
				p99s[i] = append(p99s[i], us(r.quantile(0.99)))
				cpus[i] = append(cpus[i], us(r.perRequest()))
				fails[i] += r.failed
			}
		}
		for i, t := range targets {
			rep.row(fmt.Sprint(connections), t.name, fmt.Sprintf("%.0f", median(rates[i])),
				fmt.Sprintf("%.0f us", median(p50s[i])), fmt.Sprintf("%.0f us", median(p99s[i])),
				fmt.Sprintf("%.0f us", median(cpus[i])), fmt.Sprint(fails[i]))
			failed += fails[i]
		}
		if connections == 1 {
			added := make([]float64, rounds)
			proxied := make([]float64, rounds)
			for i := range added {
				added[i] = p50s[2][i] - p50s[0][i]
				proxied[i] = p50s[1][i] - p50s[0][i]
			}
			rep.row("", "added by Lambent", "", fmt.Sprintf("%.0f us", median(added)), "", "", "")
			rep.row("", "added by ReverseProxy", "", fmt.Sprintf("%.0f us", median(proxied)), "", "", "")
			rep.atMost("warm_added_latency_ratio", median(added)/median(proxied), "x", 1)
		} else {
			ratios := make([]float64, rounds)
			for i := range ratios {
				ratios[i] = rates[2][i] / rates[1][i]
			}
			rep.atLeast("warm_throughput_ratio", median(ratios), "x", 0.7)
		}
	}
	rep.none("warm_failed", failed)
	return rep.finish()
}

func us(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func median(v []float64) float64 { return quantile(v, 0.5) }

func quantile(v []float64, q float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	return s[min(len(s)-1, int(q*float64(len(s))))]
}
