// Package executortest proves that a tier keeps the contract of package executor. A tier's test calls Run,
// and its TestMain calls Crash first.
package executortest

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lambent"
	"lambent/executor"
)

// Ability is something that not every tier can do.
type Ability string

// The abilities. Everything else is asked of every tier.
const (
	WebSocket   Ability = "websocket"
	Concurrency Ability = "concurrency"  // several requests at a time in one process
	OneProcess  Ability = "one process"  // an instance is a process, which serves its requests and may outlast or die with them
	Loopback    Ability = "loopback"     // functions have a network, which is theirs alone
	MemoryLimit Ability = "memory limit" // not one byte more than the limit is ever had
	CPULimit    Ability = "cpu limit"
	Processes   Ability = "processes" // functions may start processes, within a limit
	Files       Ability = "files"     // functions have a read-only root, and a /tmp of their own
	Users       Ability = "users"     // an instance is a process without privilege
	OwnUser     Ability = "own user"  // its user is nobody else's, not even its supervisor's
	Signals     Ability = "signals"   // Stop with a grace sends SIGTERM, exits tell signals
	Survival    Ability = "survival"  // instances outlive their executor and are adopted or swept by the next, see executor.Adopter
	Python      Ability = "python"    // the runtime python3.11
	Node        Ability = "node"      // a runtime nodejsNN
	HTTPServer  Ability = "runtime http"
	Exec        Ability = "runtime exec"
)

var abilities = []Ability{WebSocket, Concurrency, OneProcess, Loopback, MemoryLimit, CPULimit, Processes, Files, Users, OwnUser, Signals, Survival, Python, Node, HTTPServer, Exec}

// Setup says how to make the executor of a tier.
type Setup struct {
	// New makes an executor on a folder. It is called again on the same folder after a crash.
	New func(dir string) (executor.Executor, error)
	// Fixture builds the fixture into a folder, default [BuildFixture], and Serve says in the settings how that is
	// served, default as runtime go.
	Fixture func(t testing.TB, dir string)
	Serve   func(*lambent.Settings)
	// Lacks names the abilities that the tier does not have, with the reason. The test of any other runs.
	Lacks map[Ability]string
	// Leftovers lists what is on the machine of the instances that were started on a folder: processes,
	// cgroups, files.
	Leftovers func(dir string) ([]string, error)
}

//go:embed testdata/python/*.py testdata/node/*.js testdata/http/* testdata/exec/*
var handlerCode embed.FS

// kit is what the tests share.
type kit struct {
	Setup
	dir  string // the executor's
	exec executor.Executor
	code string                  // bundle of the Go fixture, whose executable is "fixture"
	base func(*lambent.Settings) // how the fixture is served, after what a test says; nil as Setup says
}

var tests = []struct {
	name  string
	needs Ability
	run   func(*testing.T, *kit)
}{
	{"Echo", "", testEcho},
	{"Stream", "", testStream},
	{"WebSocket", WebSocket, testWebSocket},
	{"Concurrency", Concurrency, testConcurrency},
	{"Env", "", testEnv},
	{"Secrets", "", testSecrets},
	{"SecretsAtStart", OneProcess, testSecretsAtStart},
	{"SecretFiles", Files, testSecretFiles},
	{"Logs", "", testLogs},
	{"LogsOfManyRequests", Concurrency, testLogsOfManyRequests},
	{"Timeouts", "", testTimeouts},
	{"ClientLeaves", "", testClientLeaves},
	{"MemoryLimit", MemoryLimit, testMemoryLimit},
	{"CPULimit", CPULimit, testCPULimit},
	{"PidsLimit", Processes, testPidsLimit},
	{"NoNetwork", Loopback, testNoNetwork},
	{"ReadOnly", Files, testReadOnly},
	{"PrivateTmp", Files, testPrivateTmp},
	{"Unprivileged", Users, testUnprivileged},
	{"Exit", OneProcess, testExit},
	{"ExitBySignal", Signals, testExitBySignal},
	{"ExitInWebSocket", WebSocket, testExitInWebSocket},
	{"Backlog", Concurrency, testBacklog},
	{"StopWithGrace", Signals, testStopWithGrace},
	{"StartFailures", OneProcess, testStartFailures},
	{"Usage", "", testUsage},
	{"Python", Python, testPython},
	{"Node", Node, testNode},
	{"HTTPServer", HTTPServer, testHTTPServer},
	{"HTTPTrailer", HTTPServer, testHTTPTrailer},
	{"HTTPCommands", HTTPServer, testHTTPCommands},
	{"HTTPParts", HTTPServer, testHTTPParts},
	{"HTTPStartFailures", HTTPServer, testHTTPStartFailures},
	{"ExecEcho", Exec, testExecEcho},
	{"ExecEnv", Exec, testExecEnv},
	{"ExecAnswers", Exec, testExecAnswers},
	{"ExecStream", Exec, testExecStream},
	{"ExecFailures", Exec, testExecFailures},
	{"ExecKills", Exec, testExecKills},
	{"ExecLogs", Exec, testExecLogs},
	{"CloseStopsAll", "", testCloseStopsAll},
	{"SweepAfterCrash", Survival, testSweepAfterCrash},
	{"Adopt", Survival, testAdopt},
	{"AdoptServer", Survival, testAdoptServer},
	{"AdoptBusy", Survival, testAdoptBusy},
	{"AdoptLastWords", Survival, testAdoptLastWords},
	{"AdoptMany", Survival, testAdoptMany},
	{"Handover", Survival, testHandover},
	{"ThousandStarts", "", testThousandStarts},
}

// Run runs the conformance tests.
func Run(t *testing.T, s Setup) {
	for a, why := range s.Lacks {
		if !slices.Contains(abilities, a) || why == "" {
			t.Fatalf("the tier lacks %q because %q: no such ability, or no reason", a, why)
		}
	}
	if slower > 1 {
		t.Logf("this machine is said to be %d times slower: bounds are wider, and ThousandStarts makes %d starts", slower, starts())
	}
	k := &kit{Setup: s, dir: t.TempDir(), code: t.TempDir()}
	if s.Fixture == nil {
		s.Fixture = BuildFixture
	}
	s.Fixture(t, k.code)
	k.exec = k.open(t, k.dir)
	for _, test := range tests {
		if why, lacks := s.Lacks[test.needs]; lacks {
			t.Logf("%s is not asked of this tier: %s", test.name, why)
			continue
		}
		t.Run(test.name, func(t *testing.T) { test.run(t, k) })
	}
}

func (k *kit) has(a Ability) bool { return k.Lacks[a] == "" }

func (k *kit) open(t testing.TB, dir string) executor.Executor {
	t.Helper()
	e, err := k.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return e
}

// buildFixture puts the fixture into a bundle that any user can read.
func buildFixture(t testing.TB, dir string) {
	t.Helper()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if built := os.Getenv(fixtureEnv); built != "" {
		content, err := os.ReadFile(built)
		if err = errors.Join(err, os.WriteFile(filepath.Join(dir, "fixture"), content, 0o755)); err != nil {
			t.Fatal(err)
		}
		return
	}
	cmd := exec.Command("go", "build", "-o", filepath.Join(dir, "fixture"), "lambent/executor/executortest/testdata/fixture")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the fixture: %v\n%s", err, out)
	}
}

func revision(t testing.TB, change func(*lambent.Settings)) *lambent.Revision {
	t.Helper()
	s := lambent.Settings{
		Runtime: "go", Handler: "fixture", Memory: 128, Concurrency: 1,
		Timeouts: lambent.Timeouts{FirstByte: lambent.Duration(patience / 2)},
	}
	if change != nil {
		change(&s)
	}
	s, err := s.Complete()
	if err != nil {
		t.Fatal(err)
	}
	return lambent.NewRevision("default", "fixture", s, "sha256:"+strings.Repeat("0", 64), "root", time.Now())
}

// revision is the test's revision, served as k says.
func (k *kit) revision(t testing.TB, change func(*lambent.Settings)) *lambent.Revision {
	t.Helper()
	return revision(t, func(s *lambent.Settings) {
		if change != nil {
			change(s)
		}
		if serve := k.base; serve != nil {
			serve(s)
		} else if k.Serve != nil {
			k.Serve(s)
		}
	})
}

// start starts an instance of the fixture that ends with the test.
func (k *kit) start(t testing.TB, change func(*lambent.Settings)) *running {
	t.Helper()
	return k.startCode(t, k.code, change)
}

func (k *kit) startCode(t testing.TB, code string, change func(*lambent.Settings)) *running {
	t.Helper()
	r, err := k.tryStart(t, k.exec, code, change)
	if err != nil {
		t.Fatalf("Start: %v\n%s", err, lambent.ErrorOf(err).Trace)
	}
	t.Cleanup(func() { r.Stop(0) })
	return r
}

func (k *kit) tryStart(t testing.TB, e executor.Executor, code string, change func(*lambent.Settings)) (*running, error) {
	t.Helper()
	r := &running{logs: newLogs(), revision: k.revision(t, change)}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var err error
	r.Instance, err = e.Start(ctx, executor.Spec{ID: lambent.NewID(), Revision: r.revision, CodeDir: code, Log: r.logs.add,
		Secrets: secretsOf(r.revision)})
	return r, err
}

// want fails unless err is of that code, and gives it.
func want(t testing.TB, err error, code lambent.Code, texts ...string) *lambent.Error {
	t.Helper()
	if !lambent.HasCode(err, code) {
		t.Fatalf("got the error %v, want %s", err, code)
	}
	e := lambent.ErrorOf(err)
	for _, text := range texts {
		if all := fmt.Sprint(e.Message, e.Hint, e.Trace); !strings.Contains(all, text) {
			t.Errorf("the error %v, with trace %q, does not say %q", e, e.Trace, text)
		}
	}
	return e
}

// eventually waits for what nothing announces; what is empty when it has come about.
func eventually(t testing.TB, limit time.Duration, what func() string) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		left := what()
		if left == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(left)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
