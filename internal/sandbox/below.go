package sandbox

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"
)

// Below lists the processes that descend from pid and have not ended, see proc_pid_children(5). One that
// begins meanwhile may be missing.
func Below(pid int) []int {
	var found []int
	for todo := []int{pid}; len(todo) > 0; todo = todo[1:] {
		threads := fmt.Sprintf("/proc/%d/task/", todo[0])
		for _, thread := range names(threads) {
			raw, err := os.ReadFile(threads + thread + "/children")
			if err != nil {
				continue // that thread has ended
			}
			for _, field := range bytes.Fields(raw) {
				child, err := strconv.Atoi(string(field))
				if err == nil && alive(child) {
					found = append(found, child)
				}
				todo = append(todo, child)
			}
		}
	}
	return found
}

// names lists a folder; a process that has ended has none.
func names(dir string) []string {
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil
	}
	return names
}

func alive(pid int) bool {
	stat, err := Stat(pid)
	return err == nil && stat[0] != "Z" && stat[0] != "X"
}

// Stat gives the fields of /proc/PID/stat that follow the name, the state first, see proc_pid_stat(5).
func Stat(pid int) ([]string, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	fields := bytes.Fields(raw[bytes.LastIndexByte(raw, ')')+1:]) // the name may hold anything
	if len(fields) < 20 {
		return nil, fmt.Errorf("/proc/%d/stat is too short: %q", pid, raw)
	}
	texts := make([]string, len(fields))
	for i, f := range fields {
		texts[i] = string(f)
	}
	return texts, nil
}

// KillBelow kills the processes that descend from pid until there are none, for five seconds at most. It
// reaches all of them if pid lives and adopts orphans.
func KillBelow(pid int) {
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		below := Below(pid)
		if len(below) == 0 {
			return
		}
		for _, p := range below {
			_ = syscall.Kill(p, syscall.SIGKILL) // an error means that it has ended
		}
		time.Sleep(time.Millisecond) // nothing tells when they are gone
	}
}

// Exiting tells whether a process is ending or has ended.
func Exiting(pid int) bool {
	const flag = 0x4 // PF_EXITING of linux/sched.h, which is set before files are closed
	stat, err := Stat(pid)
	if err != nil {
		return true
	}
	flags, err := strconv.ParseUint(stat[6], 10, 32)
	return err == nil && flags&flag != 0 || stat[0] == "Z" || stat[0] == "X"
}
