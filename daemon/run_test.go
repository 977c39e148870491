package daemon

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Each data folder has a run folder of its own, also one that is the copy of another. A folder that was moved keeps it.
func TestRunFolder(t *testing.T) {
	memory, dir := t.TempDir(), t.TempDir()
	if os.Getuid() == 0 {
		if err := unix.Mount("lambent-test", memory, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(memory, 0); err != nil {
				t.Error(err)
			}
		})
	}
	// of gives what the daemon on the data folder name has, "" where that is not in memory.
	of := func(name string) string {
		t.Helper()
		c := Config{Data: filepath.Join(dir, name)}
		path, err := c.runFolder(memory)
		if err != nil || path != c.path("run") {
			t.Fatal(path, err)
		}
		target, err := os.Readlink(path)
		if err == nil && filepath.Dir(filepath.Dir(target)) != memory {
			t.Errorf("%s is in %s", name, target)
		}
		if (err == nil) != (os.Getuid() == 0) {
			t.Errorf("%s: %v", name, err)
		}
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Error(err)
		}
		return target
	}
	if err := os.Mkdir(filepath.Join(dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	first := of("data")
	if again := of("data"); again != first {
		t.Errorf("%s is %s after a restart", first, again)
	}
	if out, err := exec.Command("cp", "-a", filepath.Join(dir, "data"), filepath.Join(dir, "copy")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if second := of("copy"); second == first && first != "" {
		t.Errorf("a copy of the data folder has the same sandboxes, in %s", second)
	}
	if err := os.Rename(filepath.Join(dir, "data"), filepath.Join(dir, "moved")); err != nil {
		t.Fatal(err)
	}
	if moved := of("moved"); moved != first {
		t.Errorf("%s is %s after a move", first, moved)
	}
	if err := os.RemoveAll(first); first != "" && err != nil { // the machine was started anew
		t.Fatal(err)
	}
	if anew := of("moved"); anew != first {
		t.Errorf("%s is %s in a machine that was started anew", first, anew)
	}
}
