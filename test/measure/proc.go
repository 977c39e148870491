package measure

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// CPU is what processes have used so far, in ticks of 10 ms.
func CPU(pids ...int) (sum time.Duration, err error) {
	for _, pid := range pids {
		s, err := statOf(pid)
		if err != nil {
			return 0, err
		}
		sum += s.cpu
	}
	return sum, nil
}

// Tree is pid and the processes that descend from it.
func Tree(pid int) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, entry := range entries {
		child, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		switch s, err := statOf(child); {
		case gone(err):
		case err != nil:
			return nil, err
		default:
			children[s.parent] = append(children[s.parent], child)
		}
	}
	tree := []int{pid}
	for i := 0; i < len(tree); i++ {
		tree = append(tree, children[tree[i]]...)
	}
	slices.Sort(tree[1:])
	return tree, nil
}

// PSS is the memory that processes have, shared pages in shares (bytes). One that has ended has none.
func PSS(pids ...int) (sum int64, err error) {
	for _, pid := range pids {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if gone(err) {
			continue
		}
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(raw)) {
			if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
				var kb int64
				if _, err := fmt.Sscan(rest, &kb); err != nil {
					return 0, err
				}
				sum += kb << 10
			}
		}
	}
	return sum, nil
}

// gone tells whether err says that there is no such process any more.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) }

// stat is a part of proc_pid_stat(5).
type stat struct {
	parent int
	cpu    time.Duration
}

func statOf(pid int) (s stat, err error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return s, err
	}
	text := string(raw)
	fields := strings.Fields(text[strings.LastIndex(text, ") ")+2:]) // behind the name, which may hold anything
	var user, system int64
	for i, to := range map[int]any{1: &s.parent, 11: &user, 12: &system} {
		if _, err := fmt.Sscan(fields[i], to); err != nil {
			return s, err
		}
	}
	s.cpu = time.Duration(user+system) * 10 * time.Millisecond
	return s, nil
}
