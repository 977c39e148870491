package fault_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lambent/test/fault"
)

const writerEnv = "LAMBENT_TEST_WRITER"

func TestMain(m *testing.M) {
	fault.Launch()
	if dir := os.Getenv(writerEnv); dir != "" {
		if err := write(dir); err != nil {
			os.Stdout.WriteString(err.Error())
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// write replaces a file as careful programs do, and has a child of its own make another.
func write(dir string) error {
	if out, err := exec.Command("touch", filepath.Join(dir, "child")).CombinedOutput(); err != nil {
		return errors.Join(err, errors.New(string(out)))
	}
	f, err := os.OpenFile(filepath.Join(dir, "new"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt([]byte("0123456789"), 0); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(dir, "file"))
}

func TestFaults(t *testing.T) {
	for _, c := range []struct {
		name    string
		rule    fault.Rule
		out     string // of the writer
		killed  bool
		content string // of the file
		left    string // in the temporary one
		slow    time.Duration
	}{
		{name: "none", rule: func(*fault.Call) fault.Verdict { return fault.Verdict{} }, content: "0123456789"},
		{name: "failing fsync", rule: at("fsync", fault.Verdict{Errno: syscall.EIO}), out: "input/output error", left: "0123456789"},
		{name: "lost writes", rule: at("fsync", fault.Verdict{Errno: syscall.EIO, Lose: true}), out: "input/output error", left: strings.Repeat("\x00", 10)},
		{name: "full disk", rule: at("pwrite64", fault.Verdict{Errno: syscall.ENOSPC}), out: "no space left"},
		{name: "no file", rule: at("openat", fault.Verdict{Errno: syscall.ENOSPC}), out: "no space left"},
		{name: "slow disk", rule: at("fsync", fault.Verdict{Delay: 300 * time.Millisecond}), content: "0123456789", slow: 300 * time.Millisecond},
		{name: "kill", rule: at("renameat", fault.Verdict{Kill: true}), killed: true, left: "0123456789"},
		{name: "torn write", rule: at("pwrite64", fault.Verdict{Tear: true}), killed: true, left: "01234"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), writerEnv+"="+dir)
			var out strings.Builder
			cmd.Stdout, cmd.Stderr = &out, os.Stderr
			begin := time.Now()
			p, err := fault.Start(t.Context(), cmd, dir, c.rule)
			if err != nil {
				t.Fatal(err)
			}
			err = cmd.Wait()
			p.Wait()
			if took := time.Since(begin); took < c.slow {
				t.Errorf("it took %s", took)
			}
			if !strings.Contains(out.String(), c.out) || (c.out == "" && !c.killed) != (err == nil) || p.Killed() != c.killed {
				t.Errorf("ended with %v, %q, killed %v", err, out.String(), p.Killed())
			}
			for file, want := range map[string]string{"file": c.content, "new": c.left} {
				if got, err := os.ReadFile(filepath.Join(dir, file)); string(got) != want || err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s holds %q, want %q: %v", file, got, want, err)
				}
			}
			if _, err := os.Stat(filepath.Join(dir, "child")); err != nil {
				t.Errorf("the child's calls were not left alone: %v", err)
			}
			for i, call := range p.Trace() {
				if i > 0 && call.Nth <= p.Trace()[i-1].Nth || !call.Below(dir) {
					t.Errorf("call %d in the trace is %+v", i, call)
				}
			}
		})
	}
}

func at(name string, v fault.Verdict) fault.Rule {
	return func(c *fault.Call) fault.Verdict {
		if c.Name == name {
			return v
		}
		return fault.Verdict{}
	}
}

// A program that cannot be started ends as its launcher, and the supervisor with it.
func TestLaunchFails(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "/does/not/exist")
	var out strings.Builder
	cmd.Stderr = &out
	p, err := fault.Start(t.Context(), cmd, t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(out.String(), "/does/not/exist") {
		t.Errorf("%v: %s", err, out.String())
	}
	p.Wait()
}
