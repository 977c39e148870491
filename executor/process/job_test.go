package process

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

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
