package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// quiet gives how many descriptors the daemon has when it has come to rest without functions: as soon as there are no
// more than wanted, or after a while.
func (s *stage) quiet(ctx context.Context, wanted int) (int, error) {
	count, still := 0, 0
	for began := time.Now(); time.Since(began) < 20*time.Second; {
		open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.daemon.PID()))
		if err != nil {
			return 0, err
		}
		still++
		if len(open) != count {
			count, still = len(open), 0
		}
		if len(s.instances.list()) == 0 && (count <= wanted || wanted == 0 && still >= 20) {
			return count, nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return count, nil
}

// leftovers counts what a daemon on the folder data that has stopped has left on this machine.
func leftovers(data string) (map[string]int, error) {
	name, err := tree(data)
	if err != nil {
		return nil, err
	}
	left := map[string]int{"processes": 0, "mounts": 0, "cgroups": 0, "instances": 0}
	for pid := range processes() {
		if raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && string(raw) == initLine(name) {
			left["processes"]++
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		before, after, _ := strings.Cut(line, " - ")
		at := strings.Fields(before)[4]
		if at != data && strings.HasPrefix(at, data+"/") {
			left["mounts"]++
		}
		if !strings.HasPrefix(after, "cgroup") {
			continue
		}
		groups, err := filepath.Glob(filepath.Join(at, "lambent", name, "*", "cgroup.procs"))
		if err != nil {
			return nil, err
		}
		left["cgroups"] += len(groups)
	}
	folders, err := os.ReadDir(filepath.Join(data, "run", "instances"))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	left["instances"] = len(folders)
	return left, err
}
