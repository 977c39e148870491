package process

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"lambent"
	"lambent/executor"
	"lambent/executor/executortest"
	"lambent/internal/egress"
	"lambent/internal/sandbox"
)

func fileDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// The sockets of an instance come out of it, to each host that connects, and are gone with it.
func TestEgressSockets(t *testing.T) {
	code := t.TempDir()
	executortest.BuildFixture(t, code)
	e, err := New(Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	var rules []string
	for i := range 60 {
		rules = append(rules, fmt.Sprintf("host%d.test:443", i), fmt.Sprintf("192.0.2.%d:443", i+1))
	}
	rules = rules[:64]
	start := func(mode string) (executor.Instance, error) {
		s, err := lambent.Settings{Runtime: "go", Handler: "fixture", Egress: rules,
			Env: map[string]string{"MODE": mode, "HTTP_PROXY": "http://mine:1"}}.Complete()
		if err != nil {
			t.Fatal(err)
		}
		return e.Start(t.Context(), executor.Spec{
			ID: lambent.NewID(), Revision: lambent.NewRevision("default", "out", s, "", "", time.Now()),
			CodeDir: code, Log: func(lambent.LogLine) {},
		})
	}
	before := fileDescriptors(t)
	for range 5 {
		if _, err := start("exit"); !lambent.HasCode(err, lambent.CodeStartFailed) {
			t.Errorf("a start that must fail: %v", err)
		}
		in, err := start("")
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial("unix", e.path(in.ID(), fileControl))
		if err != nil {
			t.Fatal(err)
		}
		again := &controlReader{conn: conn.(*net.UnixConn)}
		time.AfterFunc(10*time.Second, func() { conn.Close() })
		readReports(again, func(r sandbox.Report) {
			if r.Listening {
				sockets := again.take()
				if len(sockets) != len(rules)+1 {
					t.Errorf("another host gets %d sockets, want %d", len(sockets), len(rules)+1)
				}
				for _, s := range sockets {
					s.Close()
				}
				conn.Close()
			}
		})
		in.Stop(0)
	}
	deadline := time.Now().Add(10 * time.Second)
	for fileDescriptors(t) > before && time.Now().Before(deadline) { // connections to instances close when they notice
		time.Sleep(10 * time.Millisecond)
	}
	if after := fileDescriptors(t); after > before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

func TestEgressEnvironment(t *testing.T) {
	gate, err := egress.New(egress.Options{}).NewGate("default", []string{"*:443"}, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer gate.Close()
	spec := executor.Spec{Revision: &lambent.Revision{Settings: lambent.Settings{Env: map[string]string{"https_proxy": "http://mine:1"}}}}
	env := environment(spec, program{}, gate)
	for _, want := range []string{"HTTPS_PROXY=http://127.66.0.1:3128", "https_proxy=http://mine:1", "NODE_USE_ENV_PROXY=1"} {
		if !slices.Contains(env, want) {
			t.Errorf("the environment %v lacks %s", env, want)
		}
	}
	if env := environment(spec, program{}, nil); slices.ContainsFunc(env, func(v string) bool { return strings.HasPrefix(v, "HTTP_PROXY=") }) {
		t.Errorf("the environment without rules is %v", env)
	}
}

// A job reaches what its rules allow, as a function does: an address, and the node's own localhost as its own.
func TestEgressOfJob(t *testing.T) {
	e, err := New(Options{Dir: t.TempDir(), Egress: egress.New(egress.Options{
		Permit: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("127.0.0.2/32")},
	})})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	const script = `
import os, sys, urllib.request
with open(3, "w") as out:
    for handlers in [], [urllib.request.ProxyHandler({})]:
        out.write(urllib.request.build_opener(*handlers).open(sys.argv[1], timeout=20).read().decode() + "\n")
`
	for address, host := range map[string]string{"127.0.0.2": "127.0.0.2", "127.0.0.1": "localhost"} {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello ", r.Host) }))
		l, err := net.Listen("tcp", address+":0")
		if err != nil {
			t.Fatal(err)
		}
		s.Listener.Close()
		s.Listener = l
		s.Start()
		defer s.Close()
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		target := net.JoinHostPort(host, port)
		var output bytes.Buffer
		exit, err := e.Run(t.Context(), executor.Job{
			ID: lambent.NewID(), Namespace: "default", Argv: []string{"/usr/bin/python3", "-c", script, "http://" + target},
			Dir: t.TempDir(), Memory: 128, Work: 16, CPU: 1000, Pids: 32, Egress: []string{target},
			Log: func(line lambent.LogLine) { t.Log(line.Text) }, Output: &output,
		})
		if want := strings.Repeat("hello "+target+"\n", 2); err != nil || exit.Code != 0 || output.String() != want {
			t.Errorf("%s: got %q, %+v, %v", target, output.String(), exit, err)
		}
	}
}
