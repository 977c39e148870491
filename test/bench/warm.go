package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"lambent"
	"lambent/shim/node"
	"lambent/shim/python"
	"lambent/test/measure"
)

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

// server is a function of the warm benchmark: the same code bare, behind the ReverseProxy, and on Lambent.
type server struct {
	name   string
	folder string
	args   []string // for its deploy
	// bare gives the command that runs it on a socket as descriptor 3, and its environment.
	bare        func(ctx context.Context, l *measure.Daemon, name, dir string) (argv, env []string, err error)
	connections []int
	// single servers get one request at a time, from Lambent by their settings and so from the proxy, too.
	single bool
	bar    string
}

var servers = []server{
	{"go", "test/bench/echo", nil, bareGo, []int{32, 1}, false, "warm_throughput_ratio"},
	{"node", "test/bench/echo-node", []string{"--handler", "index.default"}, bareNode, []int{32}, false, "warm_throughput_ratio_node"},
	{"asgi", "test/bench/echo-python", []string{"--handler", "main:app"}, barePython, []int{32}, false, "warm_throughput_ratio_asgi"},
	{"python", "test/bench/echo-python", nil, barePython, []int{32}, true, "warm_throughput_ratio_python"},
}

func bareGo(ctx context.Context, _ *measure.Daemon, _, dir string) (argv, env []string, err error) {
	bin, err := buildEcho(ctx, dir)
	return []string{bin}, nil, err
}

func bareNode(ctx context.Context, l *measure.Daemon, name, dir string) (argv, env []string, err error) {
	s, err := l.Settings(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	return inFolder(node.Command("/usr/bin/node", s.Memory), node.Dir, dir), shimEnv(s), node.Install(dir)
}

func barePython(ctx context.Context, l *measure.Daemon, name, dir string) (argv, env []string, err error) {
	s, err := l.Settings(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	interpreter := "/usr/bin/" + s.Runtime
	return inFolder(python.Command(interpreter), python.Dir, dir), shimEnv(s), python.Install(dir, interpreter)
}

// inFolder is a command that finds its shim in dir, not in where sandboxes have it.
func inFolder(argv []string, was, dir string) []string {
	for i := range argv {
		argv[i] = strings.ReplaceAll(argv[i], was, dir)
	}
	return argv
}

func shimEnv(s lambent.Settings) []string {
	return []string{
		"LAMBENT_HANDLER=" + s.Handler, "LAMBENT_NAMESPACE=default", "LAMBENT_FUNCTION=echo", "LAMBENT_REVISION=1",
		"LAMBENT_INSTANCE=1", "LAMBENT_MEMORY=" + strconv.Itoa(s.Memory), "LAMBENT_CONCURRENCY=" + strconv.Itoa(s.Concurrency), "LISTEN_FDS=1",
	}
}

func warm(ctx context.Context, l *measure.Daemon, dir string, short bool) error {
	rounds, length := 9, 2*time.Second
	if short {
		rounds, length = 3, time.Second
	}
	rep := measure.NewReport("warm")
	rep.Row("server", "connections", "target", "req/s", "p50", "p99", "CPU/req", "failed")
	failed := 0
	for _, s := range servers {
		n, err := s.measure(ctx, l, filepath.Join(dir, s.name), rep, rounds, length)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		failed += n
	}
	rep.None("warm_failed", failed)
	return rep.Finish()
}

// measure compares the three ways to s and gives how many requests failed. Lambent gets one instance of it,
// because the proxy has one server behind it.
func (s server) measure(ctx context.Context, l *measure.Daemon, dir string, rep *measure.Report, rounds int, length time.Duration) (failed int, err error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return 0, err
	}
	args := append([]string{"--name", s.name, "--cpu", "2000", "--set", "max_instances=1"}, s.args...)
	if err := l.Deploy(ctx, s.folder, args...); err != nil {
		return 0, err
	}
	argv, env, err := s.bare(ctx, l, s.name, dir)
	if err != nil {
		return 0, err
	}
	alone, err := startBare(ctx, dir, s.folder, env, argv...)
	if err != nil {
		return 0, err
	}
	defer alone.stop()
	body := bytes.Repeat([]byte("lambent "), 8)
	limit := 0
	if s.single {
		limit = 1
	}
	proxy, stopProxy, err := startProxy(ctx, alone.socket, limit, body)
	if err != nil {
		return 0, err
	}
	defer stopProxy()
	direct := post("bare server", "unix", alone.socket, "echo", "/", body, fields(hostFields)...)
	direct.pid = alone.cmd.Process.Pid
	targets := []target{direct, proxy, function(l, s.name, body)}
	for _, connections := range s.connections {
		rates := make([][]float64, len(targets))
		p50s := make([][]float64, len(targets))
		p99s := make([][]float64, len(targets))
		cpus := make([][]float64, len(targets))
		fails := make([]int, len(targets))
		for round := range rounds + 1 {
			for i, t := range targets {
				r, err := load(ctx, t, connections, length)
				if err != nil {
					return failed, err
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
			rep.Row(s.name, fmt.Sprint(connections), t.name, fmt.Sprintf("%.0f", measure.Median(rates[i])),
				fmt.Sprintf("%.0f us", measure.Median(p50s[i])), fmt.Sprintf("%.0f us", measure.Median(p99s[i])),
				fmt.Sprintf("%.0f us", measure.Median(cpus[i])), fmt.Sprint(fails[i]))
			failed += fails[i]
		}
		// Each round's three runs follow one another, so they meet much the same machine.
		pairs := func(v [][]float64, of func(direct, proxy, lambent float64) float64) float64 {
			each := make([]float64, rounds)
			for i := range each {
				each[i] = of(v[0][i], v[1][i], v[2][i])
			}
			return measure.Median(each)
		}
		if connections == 1 {
			added := pairs(p50s, func(d, _, l float64) float64 { return l - d })
			proxied := pairs(p50s, func(d, p, _ float64) float64 { return p - d })
			rep.Row(s.name, "", "added by Lambent", "", fmt.Sprintf("%.0f us", added), "", "", "")
			rep.Row(s.name, "", "added by ReverseProxy", "", fmt.Sprintf("%.0f us", proxied), "", "", "")
			rep.AtMost("warm_added_latency_ratio", added/proxied, "x", 1)
		} else {
			rep.AtLeast(s.bar, pairs(rates, func(_, p, l float64) float64 { return l / p }), "x", 0.7)
		}
	}
	return failed, nil
}

func us(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
