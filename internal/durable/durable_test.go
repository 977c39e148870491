package durable_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"lambent/internal/durable"
	"lambent/test/fault"
)

const dirEnv = "LAMBENT_TEST_DURABLE"

// The program of a child: it makes a folder and replaces a file in it.
func TestMain(m *testing.M) {
	fault.Launch()
	if dir := os.Getenv(dirEnv); dir != "" {
		err := durable.MkdirAll(filepath.Join(dir, "a", "b"), 0o700)
		if err == nil {
			err = durable.WriteFile(filepath.Join(dir, "a", "b", "file"), []byte("new"), 0o600)
		}
		if err != nil {
			os.Stdout.WriteString(err.Error())
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// run runs the child on dir and gives the calls that it made, without their folder, and how it ended.
func run(t *testing.T, dir string, rule fault.Rule) (calls []string, out string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), dirEnv+"="+dir)
	var text strings.Builder
	cmd.Stdout = &text
	p, err := fault.Start(t.Context(), cmd, dir, rule)
	if err != nil {
		t.Fatal(err)
	}
	err = cmd.Wait()
	p.Wait()
	for _, c := range p.Trace() {
		calls = append(calls, c.Name+strings.TrimPrefix(c.Path, dir))
	}
	return calls, text.String(), err
}

func TestOrder(t *testing.T) {
	calls, out, err := run(t, t.TempDir(), func(*fault.Call) fault.Verdict { return fault.Verdict{} })
	if err != nil {
		t.Fatal(err, out)
	}
	const want = "mkdirat/a fsync mkdirat/a/b fsync/a openat/a/b/file.new fsync/a/b/file.new renameat/a/b/file.new fsync/a/b"
	if got := strings.Join(calls, " "); got != want {
		t.Errorf("calls\n%s, want\n%s", got, want)
	}
}

// Whatever fails or kills in whichever call, the file is the old one or the new one, and only a kill leaves more.
func TestEachCallFails(t *testing.T) {
	const calls = 5 // of WriteFile
	for nth := 1; nth <= calls; nth++ {
		for _, v := range []fault.Verdict{{Errno: syscall.EIO}, {Errno: syscall.ENOSPC}, {Kill: true}} {
			dir := t.TempDir()
			folder := filepath.Join(dir, "a", "b")
			path := filepath.Join(folder, "file")
			check(t, os.MkdirAll(folder, 0o700))
			check(t, os.WriteFile(path, []byte("old"), 0o600))
			made, out, err := run(t, dir, func(c *fault.Call) fault.Verdict {
				if c.Nth == nth {
					return v
				}
				return fault.Verdict{}
			})
			if wrong := nth < calls; wrong != (err != nil) {
				t.Errorf("%d %+v: ended with %v after %v", nth, v, err, made)
			}
			if v.Errno != 0 && err != nil && !strings.Contains(out, v.Errno.Error()) {
				t.Errorf("%d %+v: %q", nth, v, out)
			}
			got, err := os.ReadFile(path)
			if err != nil || string(got) != "old" && string(got) != "new" {
				t.Errorf("%d %+v: %q, %v", nth, v, got, err)
			}
			check(t, durable.RemoveUnfinished(folder))
			left, err := filepath.Glob(folder + "/*")
			if err != nil || len(left) != 1 {
				t.Errorf("%d %+v: left %v, %v", nth, v, left, err)
			}
		}
	}
}

func TestModeAndLeftover(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	check(t, os.WriteFile(path+durable.Suffix, []byte("what a crash has left, and longer"), 0o644))
	check(t, durable.WriteFile(path, []byte("x"), 0o600))
	info, err := os.Stat(path)
	if err != nil || info.Mode() != fs.FileMode(0o600) || info.Size() != 1 {
		t.Errorf("%v, %v", info, err)
	}
	if err := durable.WriteFile(filepath.Join(path, "file"), nil, 0o600); err == nil {
		t.Error("written below a file")
	}
	if err := durable.MkdirAll(path, 0o700); err == nil {
		t.Error("a file was taken for a folder")
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
