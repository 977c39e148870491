package process

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"lambent/internal/sandbox"
)

// initName and the executor's name are a lambent-init's command line, by which it is found after a crash.
const initName = "lambent-init"

// sweep ends the lambent-inits that an earlier executor of that name left, with all below them.
func sweep(name string) error {
	var errs []error
	left, err := initsOf(name)
	for _, pid := range left {
		errs = append(errs, sweepOne(pid, name))
	}
	return errors.Join(append(errs, err)...)
}

func initsOf(name string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && isInitOf(pid, name) {
			found = append(found, pid)
		}
	}
	return found, nil
}

func isInitOf(pid int, name string) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && string(raw) == initName+"\x00"+name+"\x00"
}

func sweepOne(pid int, name string) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil // it has ended
	}
	defer unix.Close(fd)
	if !isInitOf(pid, name) { // now that the pid cannot become another's
		return nil
	}
	sandbox.KillBelow(pid)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ESRCH) {
			return nil // it only looks like one of ours, or has ended
		}
		return fmt.Errorf("kill %d: %w", pid, err)
	}
	switch n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000); {
	case err != nil && !errors.Is(err, unix.EINTR):
		return fmt.Errorf("wait for %d: %w", pid, err)
	case n == 0 && err == nil:
		return fmt.Errorf("process %d, which an earlier lambent left, cannot be ended", pid)
	}
	return nil
}
