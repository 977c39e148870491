package process

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lambent"
	"lambent/executor"
)

// shell is a job of that script, and what it wrote.
type shell struct {
	executor.Job
	out bytes.Buffer
	mu  sync.Mutex
	log strings.Builder
}

func newShell(t *testing.T, script string) *shell {
	dir, layer := t.TempDir(), t.TempDir()
	for path, text := range map[string]string{dir: "source", layer: "layer"} {
		if err := errors.Join(os.Chmod(path, 0o755), os.WriteFile(filepath.Join(path, "file"), []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	s := &shell{}
	s.Job = executor.Job{
		ID: lambent.NewID(), Namespace: "default", Argv: []string{"/bin/sh", "-c", script}, Env: map[string]string{"HOME": "/work", "A": "b"},
		Dir: dir, Folders: map[string]string{"/var/layer": layer}, Memory: 128, Work: 32, CPU: 1000, Pids: 32, Output: &s.out,
		Log: func(l lambent.LogLine) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.log.WriteString(l.Stream + ": " + l.Text + "\n")
		},
	}
	return s
}

func newExecutor(t *testing.T) *Executor {
	dir := t.TempDir()
	e, err := New(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		if left, err := leftovers(dir); len(left) > 0 || err != nil {
			t.Errorf("left over: %v, %v", left, err)
		}
	})
	return e
}

func TestJob(t *testing.T) {
	e := newExecutor(t)
	for _, tt := range []struct {
		name, script string
		exit         lambent.Exit
		out, log     string
	}{
		{"output", `pwd >&3; cat /var/task/file /var/layer/file >&3; echo said; echo wrong >&2; exit 3`, lambent.Exit{Code: 3}, "/work\nsourcelayer", "stderr: wrong\n"},
		{"environment", `echo $HOME $A >&3; env | grep LISTEN_FDS >&3; true`, lambent.Exit{}, "/work b\n", ""},
		{"folders are read-only", `for f in /var/task/x /var/layer/x /var/task/file /usr/x /etc/x /x /var/x; do (echo x >$f) && echo wrote $f >&3; done; true`, lambent.Exit{}, "", "stderr: "},
		{"work can be written to and run from", `cp /bin/true t && ./t && echo done >&3`, lambent.Exit{}, "done\n", ""},
		{"work is bounded", `head -c 100000000 /dev/zero >big; stat -c %s big >&3`, lambent.Exit{}, "33554432\n", "No space left"},
		{"memory is bounded", `exec tail /dev/zero`, lambent.Exit{Signal: "SIGKILL", OOM: true}, "", ""},
		{"processes are bounded", `i=0; while [ $i -lt 200 ]; do sleep 60 & i=$((i+1)); done; echo survived >&3`, lambent.Exit{Code: 2}, "", "fork"},
		{"no network", `exec 2>/dev/null; cat /proc/net/route | wc -l >&3`, lambent.Exit{}, "1\n", ""},
		{"no program", "", lambent.Exit{}, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newShell(t, tt.script)
			if tt.script == "" {
				s.Argv = []string{"/no/such/program"}
				if _, err := e.Run(t.Context(), s.Job); !lambent.HasCode(err, lambent.CodeSandboxFailed) || !strings.Contains(err.Error(), "exec") {
					t.Errorf("got %v", err)
				}
				return
			}
			exit, err := e.Run(t.Context(), s.Job)
			if err != nil || exit != tt.exit {
				t.Errorf("%+v, %v", exit, err)
			}
			if s.out.String() != tt.out || !strings.Contains(s.log.String(), tt.log) {
				t.Errorf("output %q, log %q", s.out.String(), s.log.String())
			}
		})
	}
}

func TestJobEnds(t *testing.T) {
	e := newExecutor(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	s := newShell(t, `setsid sleep 1000 & sleep 1000`)
	if _, err := e.Run(ctx, s.Job); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a job without end: %v", err)
	}
	s = newShell(t, `exec cat /dev/zero >&3`)
	s.Output = &limited{1 << 20}
	if _, err := e.Run(t.Context(), s.Job); !errors.Is(err, io.ErrShortBuffer) {
		t.Errorf("output without end: %v", err)
	}
	s = newShell(t, `(sleep 1000 >&3) & echo done >&3`)
	if exit, err := e.Run(t.Context(), s.Job); err != nil || exit != (lambent.Exit{}) || s.out.String() != "done\n" {
		t.Errorf("a job that leaves a process behind: %+v, %v, %q", exit, err, s.out.String())
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if _, err := e.Run(t.Context(), s.Job); !lambent.HasCode(err, lambent.CodeShuttingDown) {
		t.Errorf("after Close: %v", err)
	}
}

type limited struct{ left int }

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		return 0, io.ErrShortBuffer
	}
	return len(p), nil
}

// TestJobWithSocket runs a program that no sandbox shows and whose name is gone, which says back what it is told.
func TestJobWithSocket(t *testing.T) {
	dir := t.TempDir()
	e, err := New(Options{Dir: dir, Unsandboxed: os.Getenv(noNamespacesEnv) != ""})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	start := func(ctx context.Context, script string) (peer net.Conn, end func() (lambent.Exit, error)) {
		s := newShell(t, "")
		path := filepath.Join(t.TempDir(), "program")
		raw, err := os.ReadFile("/bin/sh")
		if err = errors.Join(err, os.WriteFile(path, raw, 0o755)); err != nil {
			t.Fatal(err)
		}
		if s.Program, err = os.Open(path); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Program.Close() })
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		s.Socket = os.NewFile(uintptr(pair[1]), "socket")
		ours := os.NewFile(uintptr(pair[0]), "socket")
		defer ours.Close()
		if peer, err = net.FileConn(ours); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { peer.Close() })
		s.Argv, s.Work, s.Output = []string{"named", "-c", script}, 0, nil
		var exit lambent.Exit
		done := make(chan struct{})
		go func() {
			defer close(done)
			exit, err = e.Run(ctx, s.Job)
		}()
		return peer, func() (lambent.Exit, error) { <-done; return exit, err }
	}
	ask := func(peer net.Conn, question, answer string) {
		t.Helper()
		got := make([]byte, len(answer))
		if _, err := io.WriteString(peer, question); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(peer, got); err != nil || string(got) != answer {
			t.Errorf("%q: it says %q, %v", question, got, err)
		}
	}
	const script = `echo "$0 $(ls -C /proc/self/fd)" >&3; while read line <&3; do echo "is $line" >&3; done; exit 3`

	peer, end := start(t.Context(), script)
	ask(peer, "", "named 0  1  2  3  4\n") // the last is what ls looks at
	ask(peer, "one\n", "is one\n")
	ask(peer, "two\n", "is two\n")
	peer.Close()
	if exit, err := end(); exit != (lambent.Exit{Code: 3}) || err != nil {
		t.Errorf("its socket was closed: %+v, %v", exit, err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	peer, end = start(ctx, script)
	ask(peer, "", "named")
	cancel()
	if _, err := end(); !errors.Is(err, context.Canceled) {
		t.Errorf("a job that was cancelled: %v", err)
	}
	if _, err := io.Copy(io.Discard, peer); err != nil {
		t.Errorf("the socket of a job that has ended: %v", err)
	}
	if left, err := leftovers(dir); len(left) > 0 || err != nil {
		t.Errorf("left over: %v, %v", left, err)
	}
}
