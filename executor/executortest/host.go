package executortest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"lambent"
	"lambent/executor"
)

// crashDir names, in the environment of a process that startHost began, the executor's folder.
const crashDir = "LAMBENT_EXECUTORTEST_DIR"

// order is what a test wants of a host.
type order struct {
	Do       string // "start", "get", "fire", "begin", "finish", "leave", "logs" or "close"
	ID       string // of the instance
	Code     string
	Revision *lambent.Revision
	Target   string
	Request  string // id of the invocation
}

// outcome is a host's answer.
type outcome struct {
	Error string
	Body  string
	Lines []lambent.LogLine
}

// Crash must be the first call of a tier's TestMain. In a process that a test began, which is going to be killed, it
// makes an executor and does as it is told; otherwise it returns at once.
func Crash(s Setup) {
	dir := os.Getenv(crashDir)
	if dir == "" {
		return
	}
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	e, err := s.New(dir)
	if err != nil {
		_ = out.Encode(outcome{Error: err.Error()}) // fails when the test has ended
		os.Exit(1)
	}
	m := &mortal{exec: e, instances: map[string]*running{}, bodies: map[string]io.ReadCloser{}}
	_ = out.Encode(outcome{})
	for {
		var o order
		if in.Decode(&o) != nil {
			os.Exit(1) // the test has ended
		}
		result, err := m.do(o)
		if err != nil {
			result.Error = err.Error()
		}
		_ = out.Encode(result)
	}
}

// mortal is what a host is inside.
type mortal struct {
	exec      executor.Executor
	instances map[string]*running
	bodies    map[string]io.ReadCloser // of the requests that are under way
}

func (m *mortal) do(o order) (out outcome, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	r := m.instances[o.ID]
	if o.Do != "begin" {
		defer cancel()
	} else {
		time.AfterFunc(patience, cancel)
	}
	switch o.Do {
	case "start":
		r = &running{revision: o.Revision, logs: newLogs()}
		m.instances[o.ID] = r
		r.Instance, err = m.exec.Start(ctx, executor.Spec{ID: o.ID, Revision: o.Revision, CodeDir: o.Code, Secrets: secretsOf(o.Revision), Log: r.logs.add})
	case "get", "begin":
		resp, err := r.Handle(ctx, o.invocation(r), time.Now().Add(patience))
		if err != nil {
			return out, err
		}
		if o.Do == "get" {
			return finish(resp.Body)
		}
		m.bodies[o.Request] = resp.Body
	case "fire": // and never look what comes of it
		go func() { _, _ = r.Handle(context.Background(), o.invocation(r), time.Now().Add(time.Hour)) }()
	case "finish":
		return finish(m.bodies[o.Request])
	case "leave":
		r.Instance.(executor.Leaver).Leave()
	case "logs":
		out.Lines = r.logs.all()
	case "close":
		err = m.exec.Close()
	default:
		err = fmt.Errorf("no host can %q", o.Do)
	}
	return out, err
}

func (o *order) invocation(r *running) *lambent.Invocation {
	return &lambent.Invocation{ID: o.Request, Revision: r.revision, Trigger: lambent.TriggerHTTP, Accepted: time.Now(), Method: "GET", Target: o.Target}
}

func finish(body io.ReadCloser) (out outcome, err error) {
	raw, err := io.ReadAll(body)
	return outcome{Body: string(raw)}, errors.Join(err, body.Close())
}

// host is another process with an executor.
type host struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *json.Decoder
	said *bytes.Buffer // on stderr; to be read when it has ended
	kill func()
}

// startHost starts one on dir. It is killed when the test ends, if not before.
func startHost(t testing.TB, dir string, env ...string) *host {
	t.Helper()
	h := &host{cmd: exec.Command("/proc/self/exe"), said: new(bytes.Buffer)}
	h.cmd.Env = append(append(os.Environ(), crashDir+"="+dir), env...)
	h.cmd.Stderr = h.said
	var err error
	if h.in, err = h.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := h.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	h.out = json.NewDecoder(stdout)
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h.kill = sync.OnceFunc(func() {
		if err := h.cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = h.cmd.Wait() // the error says that it was killed
		if said := strings.TrimSpace(h.said.String()); said != "" {
			t.Errorf("the other host says: %s", said)
		}
	})
	t.Cleanup(h.kill)
	if got := h.answer(t); got.Error != "" {
		t.Fatal(got.Error)
	}
	return h
}

func (h *host) answer(t testing.TB) (got outcome) {
	t.Helper()
	if err := h.out.Decode(&got); err != nil {
		t.Fatalf("the other host does not answer: %v", err)
	}
	return got
}

// send does not wait for an answer.
func (h *host) send(t testing.TB, o order) {
	t.Helper()
	if err := json.NewEncoder(h.in).Encode(o); err != nil {
		t.Fatal(err)
	}
}

// try gives the error.
func (h *host) try(t testing.TB, o order) string {
	t.Helper()
	h.send(t, o)
	return h.answer(t).Error
}

func (h *host) ask(t testing.TB, o order) outcome {
	t.Helper()
	h.send(t, o)
	got := h.answer(t)
	if got.Error != "" {
		t.Fatalf("%s %s in the other host: %s", o.Do, o.Target, got.Error)
	}
	return got
}

// start starts an instance in h.
func (h *host) start(t testing.TB, code string, rev *lambent.Revision) (id string) {
	t.Helper()
	id = lambent.NewID()
	h.ask(t, order{Do: "start", ID: id, Revision: rev, Code: code})
	return id
}

// get gives the body of the answer to a GET.
func (h *host) get(t testing.TB, id, target string) string {
	t.Helper()
	return h.ask(t, order{Do: "get", ID: id, Target: target, Request: lambent.NewID()}).Body
}

// KillOne starts a process with an executor on dir and three instances of code (see BuildFixture), and
// kills it with SIGKILL.
func KillOne(t testing.TB, dir, code string, env ...string) {
	t.Helper()
	h := startHost(t, dir, env...)
	for range 3 {
		h.start(t, code, revision(t, nil))
	}
	h.kill()
}
