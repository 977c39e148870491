package daemon

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"lambent"
)

// lock takes the data folder for this process, and tells whether the one before completed its stop. The lock ends with the
// process, however it ends; the pid in the file is for the message only.
func lock(path string) (_ *os.File, clean bool, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, false, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		holder, rerr := io.ReadAll(f)
		f.Close()
		if rerr != nil {
			return nil, false, rerr
		}
		return nil, false, lambent.Errorf(lambent.CodeConflict, "another lambent (pid %s) runs on %s", strings.TrimSpace(string(holder)), path).
			WithHint("stop it first, or choose another folder with --data")
	}
	var left []byte
	if err == nil {
		left, err = io.ReadAll(f)
	}
	if err == nil {
		err = holds(f)
	}
	if err != nil {
		f.Close()
		return nil, false, err
	}
	return f, strings.TrimSpace(string(left)) == stopped, nil
}

const stopped = "stopped"

// released writes into the lock that the process that has it has completed its stop.
func released(f *os.File) error {
	_, err := f.WriteAt(fmt.Appendf(nil, "%-10s\n", stopped), 0)
	return err
}

// holds writes into the lock that this process has it, over what it held before: that needs no room on a full disk.
func holds(f *os.File) error {
	_, err := f.WriteAt(fmt.Appendf(nil, "%-10d\n", os.Getpid()), 0)
	return err
}
