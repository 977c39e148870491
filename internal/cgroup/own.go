package cgroup

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// leafDaemon is where a process of version 2 goes that was in the group that it divides.
const leafDaemon = "daemon"

// own gives the groups that the process of a cgroup file is in, see proc_pid_cgroup(5).
func (h hierarchies) own(file string) (hierarchies, error) {
	f, err := os.Open(file)
	if err != nil {
		return h, err
	}
	defer f.Close()
	dirs, roots := map[string]string{}, map[string]string{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.SplitN(lines.Text(), ":", 3)
		if len(fields) != 3 {
			continue
		}
		for controller := range strings.SplitSeq(fields[1], ",") {
			root, known := h.roots[controller]
			below, err := filepath.Rel(root, fields[2])
			if !known || err != nil || below == ".." || strings.HasPrefix(below, "../") {
				continue
			}
			dir := h.dirs[controller]
			if controller == "" {
				dir = h.dirs["memory"]
			}
			dirs[controller], roots[controller] = filepath.Join(dir, below), fields[2]
		}
	}
	if h.version == 2 && dirs[""] != "" {
		return version2(strings.TrimSuffix(dirs[""], "/"+parent+"/"+leafDaemon), roots[""]), nil
	}
	for controller := range h.dirs {
		if dirs[controller] == "" {
			return h, fmt.Errorf("%s tells no group of ours with the controller %s that is mounted", file, controller)
		}
	}
	return hierarchies{1, dirs, roots}, nil
}

// delegated opens the tree in a group that we are in ourselves. Version 2 divides no group that holds processes,
// so we go into one of its children first. When others stay in it the kernel refuses to divide it.
func (h hierarchies) delegated(name string) (*Tree, error) {
	if h.version == 2 {
		leaf := filepath.Join(h.dirs["memory"], parent, leafDaemon)
		if err := os.MkdirAll(leaf, 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), strconv.AppendInt(nil, int64(os.Getpid()), 10), 0o644); err != nil {
			return nil, err
		}
	}
	return h.open(name)
}
