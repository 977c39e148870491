package system

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// process is a daemon that is a process of its own.
type process struct {
	cmd  *exec.Cmd
	log  *syncBuffer   // what it says
	took time.Duration // until it served
	kill func()        // with SIGKILL
	wait func() error
}

// binaries builds what a daemon is, once for all that a test starts.
func binaries(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, name := range []string{"lambent", "lambent-init", "lambent-exec"} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, name), "lambent/cmd/"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	return dir
}

// startUp builds and runs a daemon on dir.
func startUp(t *testing.T, dir string) *process {
	t.Helper()
	return launch(t, binaries(t), dir)
}

// launch runs a daemon on dir, at the addresses that the one before had there.
func launch(t *testing.T, bin, dir string) *process {
	t.Helper()
	listen, manage := "127.0.0.1:0", "127.0.0.1:0"
	if _, err := os.Stat(filepath.Join(dir, "endpoints.json")); err == nil {
		n := attach(t, dir)
		listen, manage = strings.TrimPrefix(n.at.Functions, "http://"), strings.TrimPrefix(n.at.Control, "http://")
	}
	p := &process{cmd: exec.Command(filepath.Join(bin, "lambent"), "up", "--data", dir, "--listen", listen, "--control", manage), log: new(syncBuffer)}
	p.cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+filepath.Join(dir, "config"), "LAMBENT_INITBIN="+bin)
	p.cmd.Stderr = p.log
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.wait = sync.OnceValue(p.cmd.Wait)
	p.kill = func() {
		_ = p.cmd.Process.Kill() // it may have ended
		_ = p.wait()
	}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("the daemon said:\n%s", p.log)
		}
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "serving") {
	}
	p.took = time.Since(began)
	go func() { _, _ = io.Copy(io.Discard, out) }() // until it ends
	return p
}

// stop ends it as an operator does.
func (p *process) stop(t *testing.T) {
	t.Helper()
	if err := errors.Join(p.cmd.Process.Signal(syscall.SIGTERM), p.wait()); err != nil {
		t.Error(err)
	}
}

// syncBuffer is written and read by several.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
