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
	direct.pids = []int{alone.cmd.Process.Pid}
	targets := []target{direct, proxy, function(l, s.name, body)}
	for _, connections := range s.connections {
		results, err := interleaved(ctx, targets, connections, rounds, length)
		if err != nil {
			return failed, err
		}
		for i, t := range targets {
			r := results[i]
			rep.Row(s.name, fmt.Sprint(connections), t.name, fmt.Sprintf("%.0f", median(r, result.rate)),
				fmt.Sprintf("%.0f us", median(r, result.p50)), fmt.Sprintf("%.0f us", median(r, result.p99)),
				fmt.Sprintf("%.0f us", median(r, result.perCall)), fmt.Sprint(failures(r)))
			failed += failures(r)
		}
		direct, proxied, ours := results[0], results[1], results[2]
		if connections == 1 {
			byUs := paired(ours, direct, result.p50, minus)
			byProxy := paired(proxied, direct, result.p50, minus)
			rep.Row(s.name, "", "added by Lambent", "", fmt.Sprintf("%.0f us", byUs), "", "", "")
			rep.Row(s.name, "", "added by ReverseProxy", "", fmt.Sprintf("%.0f us", byProxy), "", "", "")
			rep.AtMost("warm_added_latency_ratio", byUs/byProxy, "x", 1)
		} else {
			rep.AtLeast(s.bar, paired(ours, proxied, result.rate, over), "x", 0.7)
		}
	}
	return failed, nil
}

func us(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
