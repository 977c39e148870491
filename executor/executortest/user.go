package executortest

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// AsUser gives a command that runs this test binary as a user without any privilege, in a fresh process with
// a temporary folder of its own. It must be called by root.
func AsUser(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	dir, err := os.MkdirTemp("", "lambent-user-") // not t.TempDir, whose parents are closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	buildFixture(t, dir)
	temp, program := filepath.Join(dir, "tmp"), filepath.Join(dir, "test")
	if err := copyFile(program, "/proc/self/exe"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(temp, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(temp, User, User); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, args...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + temp, "TMPDIR=" + temp, fixtureEnv + "=" + filepath.Join(dir, "fixture"),
		slowerEnv + "=" + strconv.Itoa(slower)}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: User, Gid: User}}
	return cmd
}

// User is the one of AsUser: nobody else's on any system that the tests run on.
const User = 64999

func copyFile(to, from string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	return dst.Close()
}
