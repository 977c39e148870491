package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lambent"
	"lambent/executor"
	"lambent/executor/executortest"
	"lambent/internal/egress"
	"lambent/internal/sandbox"
)

// open makes an executor that is closed when the test ends.
func open(t *testing.T, o Options) *Executor {
	t.Helper()
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	if e.away != nil {
		t.Fatal(e.away)
	}
	return e
}

func begin(t *testing.T, e *Executor, rev *lambent.Revision, code string) *instance {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	in, err := e.Start(ctx, executor.Spec{ID: lambent.NewID(), Revision: rev, CodeDir: code, Log: func(lambent.LogLine) {}})
	if err != nil {
		t.Fatal(err)
	}
	return in.(*instance)
}

func takeOver(t *testing.T, e *Executor, in *instance) *instance {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	adopted, err := e.Adopt(ctx, executor.Spec{ID: in.id, Revision: in.revision, Log: func(lambent.LogLine) {}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return adopted.(*instance)
}

func ask(t *testing.T, in *instance, target string) string {
	t.Helper()
	resp, err := in.Handle(t.Context(), &lambent.Invocation{ID: lambent.NewID(), Revision: in.revision, Method: "GET", Target: target}, time.Now().Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// damages are what may have become of a state file. Each names a process that is not ours, if it names one.
var damages = []func(file string, s state, foreign *os.Process) error{
	func(file string, _ state, _ *os.Process) error { return os.Remove(file) },
	func(file string, _ state, _ *os.Process) error { return os.Truncate(file, 0) },
	func(file string, _ state, _ *os.Process) error { return os.Truncate(file, 100) },
	func(file string, _ state, _ *os.Process) error { return os.Truncate(file, 2*maxState) },
	func(file string, _ state, _ *os.Process) error { return os.WriteFile(file, []byte("[1,2]"), 0o600) },
	func(file string, _ state, _ *os.Process) error {
		return errors.Join(os.Remove(file), unix.Mkfifo(file, 0o600)) // whoever opens it waits
	},
	func(file string, _ state, _ *os.Process) error {
		return errors.Join(os.Rename(file, file+".away"), os.Symlink(file+".away", file))
	},
	func(file string, s state, _ *os.Process) error { s.Format++; return rewrite(file, s) },
	func(file string, s state, _ *os.Process) error { s.Level = "other"; return rewrite(file, s) },
	func(file string, s state, _ *os.Process) error { s.Revision = nil; return rewrite(file, s) },
	func(file string, s state, _ *os.Process) error { s.PID = 0; return rewrite(file, s) },
	func(file string, s state, _ *os.Process) error { s.PID = -1; return rewrite(file, s) },
	func(file string, s state, _ *os.Process) error { s.PID = 1; return rewrite(file, s) },
	func(file string, s state, _ *os.Process) error { s.Start += "1"; return rewrite(file, s) },
	func(file string, s state, foreign *os.Process) error {
		stat, err := sandbox.Stat(foreign.Pid)
		if err != nil {
			return err
		}
		s.PID, s.Start = foreign.Pid, stat[statStart]
		return rewrite(file, s)
	},
}

func rewrite(file string, s state) error {
	raw, err := json.Marshal(s)
	return errors.Join(err, os.WriteFile(file, raw, 0o600))
}

// TestDamagedState damages the states of what a crash left. Nobody gets the users of what is left; a sweep ends that, and
// nothing else.
func TestDamagedState(t *testing.T) {
	code := t.TempDir()
	executortest.BuildFixture(t, code)
	bystander := exec.Command("/bin/sleep", "600")
	bystander.Args = []string{initName, "600"}
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	defer bystander.Wait()
	defer bystander.Process.Kill()
	for part := range slices.Chunk(damages, 3) {
		dir := t.TempDir()
		executortest.KillOne(t, dir, code)
		files, err := filepath.Glob(filepath.Join(dir, instancesDir, "*", fileState))
		if err != nil || len(files) != 3 {
			t.Fatalf("there are %v, %v", files, err)
		}
		for i, damage := range part {
			raw, err := os.ReadFile(files[i])
			var s state
			if err = errors.Join(err, json.Unmarshal(raw, &s)); err != nil {
				t.Fatal(err)
			}
			if err := damage(files[i], s, bystander.Process); err != nil {
				t.Fatal(err)
			}
		}
		e := open(t, Options{Dir: dir})
		left, err := e.Left()
		if len(left) != 3-len(part) || err != nil {
			t.Errorf("%d are left to be adopted, want %d, %v", len(left), 3-len(part), err)
		}
		if len(e.users.used) != 3 {
			t.Errorf("the users %v are taken, want 3", e.users.used)
		}
		for _, file := range files[:len(part)] {
			_, err := e.Adopt(t.Context(), executor.Spec{ID: filepath.Base(filepath.Dir(file)), Revision: revisionOf(t, nil), Log: func(lambent.LogLine) {}}, nil)
			if !lambent.HasCode(err, lambent.CodeConflict) {
				t.Errorf("adopting gives %v", err)
			}
		}
		if err := e.Sweep(); err != nil {
			t.Error(err)
		}
		if left, err := leftovers(dir); len(left) > 0 || err != nil {
			t.Errorf("left over: %v, %v", left, err)
		}
		if len(e.users.used) != 0 {
			t.Errorf("the users %v are taken after the sweep", e.users.used)
		}
	}
	if stat, err := sandbox.Stat(bystander.Process.Pid); err != nil || stat[0] != "S" {
		t.Errorf("a process that is not ours: %v, %v", stat, err)
	}
}

// TestSweepHalfMade sweeps what a crash leaves in the middle of a start.
func TestSweepHalfMade(t *testing.T) {
	dir := t.TempDir()
	for _, sub := range []string{"empty", "half/" + fileRoot + "77"} {
		if err := os.MkdirAll(filepath.Join(dir, instancesDir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	e := open(t, Options{Dir: dir})
	if e.tree != nil {
		if _, err := e.tree.Create("grouponly", limitsOf(&revisionOf(t, nil).Settings)); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := e.Left(); len(left) > 0 || err != nil {
		t.Errorf("%v are left, %v", left, err)
	}
	if err := e.Sweep(); err != nil {
		t.Error(err)
	}
	if left, err := leftovers(dir); len(left) > 0 || err != nil {
		t.Errorf("left over: %v, %v", left, err)
	}
}

// TestShareFolder has two executors on a folder: users, shims and the folder itself stay while somebody needs them.
func TestShareFolder(t *testing.T) {
	dir, code := t.TempDir(), t.TempDir()
	executortest.BuildFixture(t, code)
	if err := os.WriteFile(filepath.Join(code, "main.py"), []byte("def handler(event, context): import lambent_late_import_is_none\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	old := open(t, Options{Dir: dir})
	python := begin(t, old, revisionOf(t, func(s *lambent.Settings) { s.Runtime, s.Handler = "python3.11", "main.handler" }), code)
	plain := begin(t, old, revisionOf(t, nil), code)
	shims := func() int {
		entries, err := os.ReadDir(filepath.Join(dir, runtimeDir))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	next := open(t, Options{Dir: dir, Half: 1})
	python.Leave()
	plain.Leave()
	plain.Stop(0) // is not ours to do any more
	if err := old.Close(); err != nil {
		t.Error(err)
	}
	python, plain = takeOver(t, next, python), takeOver(t, next, plain)
	if err := next.Sweep(); err != nil {
		t.Error(err)
	}
	if n := shims(); n != 2 {
		t.Errorf("there are %d folders of shims, want those of both processes", n)
	}
	fresh := begin(t, next, revisionOf(t, nil), code)
	if privileged() && (fresh.user == plain.user || fresh.user < int(next.users.base) || plain.user >= int(next.users.base)) {
		t.Errorf("the users are %d and %d, from %d on", plain.user, fresh.user, next.users.base)
	}
	pid, _, _ := strings.Cut(ask(t, plain, "/count"), " ")
	python.Stop(0)
	if err := next.Sweep(); err != nil {
		t.Error(err)
	}
	if n := shims(); n != 2 { // plain began with the others
		t.Errorf("there are %d folders of shims", n)
	}
	fresh.Stop(0)

	// The last executor closes, and what it has left stays.
	plain.Leave()
	if err := next.Close(); err != nil {
		t.Error(err)
	}
	last := open(t, Options{Dir: dir})
	plain = takeOver(t, last, plain)
	if got := ask(t, plain, "/count"); got != pid+" 2" {
		t.Errorf("it counts %s, want %s 2", got, pid)
	}
	plain.Stop(0)
	if err := last.Sweep(); err != nil {
		t.Error(err)
	}
	if n := shims(); n != 1 {
		t.Errorf("there are %d folders of shims after all", n)
	}
	if err := last.Close(); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(dir); len(entries) > 0 || err != nil {
		t.Errorf("the folder still has %v, %v", entries, err)
	}
}

// TestLeftAlone leaves instances that nobody adopts. They live while their old host serves requests with them, and their
// last words do not outlive their programs for long.
func TestLeftAlone(t *testing.T) {
	dir, code := t.TempDir(), t.TempDir()
	executortest.BuildFixture(t, code)
	e := open(t, Options{Dir: dir, Orphan: 500 * time.Millisecond})
	in, dies := begin(t, e, revisionOf(t, nil), code), begin(t, e, revisionOf(t, nil), code)
	in.Leave()
	dies.Leave()
	if _, err := dies.Handle(t.Context(), &lambent.Invocation{ID: "one", Revision: dies.revision, Method: "GET", Target: "/exit?code=3"}, time.Now().Add(time.Minute)); !lambent.HasCode(err, lambent.CodeInstanceExited) {
		t.Errorf("got %v", err)
	}
	if got := ask(t, in, "/sleep?ms=1500"); got != "slept" {
		t.Errorf("it answers %q", got)
	}
	in.control.Close() // as at the end of its old host
	for _, in := range []*instance{in, dies} {
		select {
		case <-in.gone:
		case <-time.After(30 * time.Second):
			t.Fatal("it lives on")
		}
	}
	if err := e.Sweep(); err != nil {
		t.Error(err)
	}
	if left, err := leftovers(dir); len(left) > 0 || err != nil {
		t.Errorf("left over: %v, %v", left, err)
	}
}

// TestLeftSerial gives away an instance that serves one connection after the other.
func TestLeftSerial(t *testing.T) {
	const server = `
import http.server, socket
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    do_OPTIONS = do_GET
    def address_string(self): return ""
s = http.server.HTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
s.socket.close()
s.socket = socket.socket(fileno=3)
s.serve_forever()
`
	dir, code := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(code, "server.py"), []byte(server), 0o644); err != nil {
		t.Fatal(err)
	}
	rev := revisionOf(t, func(s *lambent.Settings) {
		s.Runtime, s.Handler, s.Command = "http", "", []string{"/usr/bin/python3", "server.py"}
	})
	old := open(t, Options{Dir: dir})
	in := begin(t, old, rev, code)
	if got := ask(t, in, "/"); got != "ok" {
		t.Fatalf("it answers %q", got)
	}
	next := open(t, Options{Dir: dir, Half: 1})
	in.Leave()
	in = takeOver(t, next, in)
	if got := ask(t, in, "/"); got != "ok" {
		t.Errorf("it answers %q", got)
	}
	in.Stop(0)
}

// TestLeftWithoutState makes an instance of which no state can be written: it cannot be given away.
func TestLeftWithoutState(t *testing.T) {
	dir, code := t.TempDir(), t.TempDir()
	executortest.BuildFixture(t, code)
	e := open(t, Options{Dir: dir})
	in := begin(t, e, revisionOf(t, nil), code)
	file := e.path(in.id, fileState)
	if err := errors.Join(os.Remove(file), os.Mkdir(file, 0o700)); err != nil {
		t.Fatal(err)
	}
	if _, ok := e.record(in, nil).(executor.Leaver); ok {
		t.Error("an instance without a state can be given away")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, ok := e.record(in, nil).(executor.Leaver); !ok {
		t.Error("an instance with a state cannot be given away")
	}
}

// TestLeftStopped has the next host end what the old one still serves a request with, which learns why.
func TestLeftStopped(t *testing.T) {
	dir, code := t.TempDir(), t.TempDir()
	executortest.BuildFixture(t, code)
	old, next := open(t, Options{Dir: dir}), open(t, Options{Dir: dir, Half: 1})
	for name, c := range map[string]struct {
		end  func(*instance)
		code lambent.Code
	}{
		"at once":  {func(in *instance) { in.Stop(0) }, lambent.CodeInstanceStopped},
		"in peace": {func(in *instance) { in.Stop(100 * time.Millisecond) }, lambent.CodeInstanceStopped},
		"for its memory": {func(in *instance) {
			if w, ok := in.group.(*watched); ok { // else the kernel does it
				w.kill()
				return
			}
			if resp, err := in.Handle(t.Context(), &lambent.Invocation{ID: "two", Revision: in.revision, Method: "GET", Target: "/alloc?mb=1000"}, time.Now().Add(time.Minute)); err == nil {
				resp.Body.Close()
			}
		}, lambent.CodeMemoryExceeded},
		"by itself": {func(in *instance) {
			_, _ = in.Handle(t.Context(), &lambent.Invocation{ID: "two", Revision: in.revision, Method: "GET", Target: "/exit?code=3"}, time.Now().Add(time.Minute))
		}, lambent.CodeInstanceExited},
	} {
		t.Run(name, func(t *testing.T) {
			in := begin(t, old, revisionOf(t, func(s *lambent.Settings) { s.Concurrency, s.Memory = 2, 64 }), code)
			inv := &lambent.Invocation{ID: "one", Revision: in.revision, Method: "GET", Target: "/drip?n=1000&ms=100"}
			resp, err := in.Handle(t.Context(), inv, time.Now().Add(time.Minute))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			in.Leave()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			adopted, err := next.Adopt(ctx, executor.Spec{ID: in.id, Revision: in.revision, Log: func(lambent.LogLine) {}}, []string{"one"})
			if err != nil {
				t.Fatal(err)
			}
			c.end(adopted.(*instance))
			if _, err := io.ReadAll(resp.Body); !lambent.HasCode(err, c.code) {
				t.Errorf("the old host says %v, want %s", err, c.code)
			}
			adopted.Stop(0)
			<-in.gone
		})
	}
}

// TestEgressMismatch adopts an instance with rules that ask for other sockets than it has.
func TestEgressMismatch(t *testing.T) {
	dir, code := t.TempDir(), t.TempDir()
	executortest.BuildFixture(t, code)
	old := open(t, Options{Dir: dir, Egress: egress.New(egress.Options{})})
	in := begin(t, old, revisionOf(t, func(s *lambent.Settings) { s.Egress = []string{"a.example:80"} }), code)
	next := open(t, Options{Dir: dir, Half: 1, Egress: egress.New(egress.Options{})})
	other := *in.revision
	other.Settings.Egress = []string{"a.example:80", "b.example:80"}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := next.Adopt(ctx, executor.Spec{ID: in.id, Revision: &other, Log: func(lambent.LogLine) {}}, nil)
	if !lambent.HasCode(err, lambent.CodeConflict) || !strings.Contains(err.Error(), "sockets") {
		t.Errorf("adopting gives %v", err)
	}
	if got := ask(t, in, "/sleep"); got != "slept" {
		t.Errorf("it answers %q", got)
	}
}

// TestEgressAdopted lets an instance out through the gate of who adopted it.
func TestEgressAdopted(t *testing.T) {
	dir, code := t.TempDir(), t.TempDir()
	executortest.BuildFixture(t, code)
	target, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	go func() {
		for {
			conn, err := target.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "here")
			conn.Close()
		}
	}()
	proxy := func(permit ...netip.Prefix) *egress.Proxy { return egress.New(egress.Options{Permit: permit}) }
	old := open(t, Options{Dir: dir, Egress: proxy()}) // which would refuse
	if old.level == lambent.IsolationNone {
		t.Fatal("there is no way out of nothing")
	}
	in := begin(t, old, revisionOf(t, func(s *lambent.Settings) { s.Egress = []string{target.Addr().String()} }), code)
	if got := ask(t, in, "/fetch?tcp="+target.Addr().String()); got == "here" {
		t.Fatalf("the first gate lets it out: %q", got)
	}
	next := open(t, Options{Dir: dir, Half: 1, Egress: proxy(netip.MustParsePrefix("127.0.0.0/8"))})
	in.Leave()
	in = takeOver(t, next, in)
	for range 20 {
		if got := ask(t, in, "/fetch?tcp="+target.Addr().String()); got != "here" {
			t.Fatalf("it fetches %q", got)
		}
	}
	in.Stop(0)
	if left, err := leftovers(dir); len(left) > 0 || err != nil {
		t.Errorf("left over: %v, %v", left, err)
	}
}

// TestBacklogAdopted kills the program of an adopted instance before it takes up a request.
func TestBacklogAdopted(t *testing.T) {
	dir, code := t.TempDir(), t.TempDir()
	executortest.BuildFixture(t, code)
	old := open(t, Options{Dir: dir})
	in := begin(t, old, revisionOf(t, nil), code)
	next := open(t, Options{Dir: dir, Half: 1})
	in.Leave()
	in = takeOver(t, next, in)
	signal := func(sig unix.Signal) {
		t.Helper()
		for _, pid := range sandbox.Below(in.pid) {
			if err := unix.Kill(pid, sig); err != nil {
				t.Fatal(err)
			}
		}
	}
	signal(unix.SIGSTOP)
	outcome := make(chan error, 1)
	go func() {
		_, err := in.Handle(t.Context(), &lambent.Invocation{ID: "one", Revision: in.revision, Method: "GET", Target: "/count"}, time.Now().Add(time.Minute))
		outcome <- err
	}()
	time.Sleep(100 * time.Millisecond) // enough for most runs to have sent it; the others prove less
	signal(unix.SIGKILL)
	if err := <-outcome; !errors.Is(err, executor.ErrNotSent) {
		t.Errorf("got %v", err)
	}
	<-in.gone
}

// TestFakeInit connects an adopting host to something that only claims to be a lambent-init of an instance.
func TestFakeInit(t *testing.T) {
	dir, code := t.TempDir(), t.TempDir()
	executortest.BuildFixture(t, code)
	for name, says := range map[string]string{
		"nothing kept": `{"kept":true}` + "\n", "no JSON": "hello\n", "hangs up": "",
		"ends first": `{"exit":{"code":3,"at":1}}` + "\n" + `{"kept":true}` + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			old := open(t, Options{Dir: dir})
			in := begin(t, old, revisionOf(t, nil), code)
			next := open(t, Options{Dir: dir, Half: 1})
			control := next.path(in.id, fileControl)
			if err := os.Rename(control, control+".real"); err != nil {
				t.Fatal(err)
			}
			l, err := net.Listen("unix", control)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			over := make(chan struct{})
			go func() {
				defer close(over)
				conn, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(conn, says)
				conn.Close()
			}()
			before := fileDescriptors(t)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if _, err := next.Adopt(ctx, executor.Spec{ID: in.id, Revision: in.revision, Log: func(lambent.LogLine) {}}, nil); err == nil {
				t.Error("it was adopted")
			}
			<-over
			if after := fileDescriptors(t); after > before {
				t.Errorf("%d descriptors before, %d after", before, after)
			}
			if got := ask(t, in, "/sleep"); got != "slept" {
				t.Errorf("it answers %q", got)
			}
			in.Stop(0)
		})
	}
}

func TestDigest(t *testing.T) {
	seen := map[string]string{}
	for _, secrets := range []map[string]string{nil, {"a": ""}, {"": "a"}, {"a": "b"}, {"ab": ""}, {"a": "b", "c": "d"}, {"a": "bc", "": "d"}} {
		d := fmt.Sprintf("%x", digest([]byte("salt"), secrets))
		if other, again := seen[d]; again {
			t.Errorf("%v and %s have one digest", secrets, other)
		}
		seen[d] = fmt.Sprint(secrets)
	}
	if slices.Equal(digest([]byte("one"), nil), digest([]byte("two"), nil)) {
		t.Error("the salt does nothing")
	}
	if !slices.Equal(digest(nil, nil), digest(nil, map[string]string{})) {
		t.Error("no secrets are other than no secrets")
	}
}
