package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// descriptors counts what a process has open, by what it is.
type descriptors map[string]int

func openIn(pid int) (descriptors, error) {
	dir := fmt.Sprintf("/proc/%d/fd/", pid)
	names, err := os.ReadDir(dir)
	open := descriptors{}
	for _, name := range names {
		if what, err := os.Readlink(dir + name.Name()); err == nil { // else it was closed meanwhile
			what, _, _ = strings.Cut(what, ":[")
			open[what]++
		}
	}
	return open, err
}

func (d descriptors) count() (n int) {
	for _, each := range d {
		n += each
	}
	return n
}

// more tells what there is more of than before.
func (d descriptors) more(before descriptors) (what []string) {
	for name, n := range d {
		if n > before[name] {
			what = append(what, fmt.Sprintf("%d %s", n-before[name], name))
		}
	}
	return what
}

// quiet gives the descriptors that the daemon has when it has come to rest without functions: as soon as there are no
// more than wanted, or after a while.
func (s *stage) quiet(ctx context.Context, wanted int) (open descriptors, err error) {
	http.DefaultTransport.(*http.Transport).CloseIdleConnections() // ours to the control API are none of its
	still := 0
	for began := time.Now(); time.Since(began) < 20*time.Second; {
		last := open.count()
		if open, err = openIn(s.daemon.PID()); err != nil {
			return nil, err
		}
		if still++; open.count() != last {
			still = 0
		}
		if len(s.instances.list()) == 0 && (open.count() <= wanted || wanted == 0 && still >= 20) {
			break
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return open, nil
}

// leftovers counts what there is on this machine of the sandboxes of the daemon on the folder data: name is that of
// their tree.
func leftovers(data, name string) (map[string]int, error) {
	left := map[string]int{"processes": 0, "mounts": 0, "cgroups": 0, "instances": 0}
	for pid := range processes() {
		if called(pid, name) {
			left["processes"]++
		}
	}
	// Sandboxes mount in namespaces of their own, which live as long as a process or a descriptor does.
	scratch, seen := filepath.Base(filepath.Dir(data)), map[string]bool{}
	for pid := range processes() {
		namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
		if err != nil || seen[namespace] {
			continue // it has ended, or its mounts are counted
		}
		mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
		if err != nil {
			continue
		}
		seen[namespace] = true
		for line := range strings.Lines(string(mounts)) {
			before, _, _ := strings.Cut(line, " - ")
			if fields := strings.Fields(before); fields[4] != data && strings.Contains(fields[3]+fields[4], scratch) {
				left["mounts"]++
			}
		}
	}
	for _, version := range []string{"*", ""} {
		for _, group := range []string{"*", ""} { // of an instance, of the daemon
			found, err := filepath.Glob(filepath.Join("/sys/fs/cgroup", version, "lambent", name, group, "cgroup.procs"))
			if err != nil {
				return nil, err
			}
			left["cgroups"] += len(found)
		}
	}
	folders, err := os.ReadDir(filepath.Join(data, "run", "instances"))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	left["instances"] = len(folders)
	return left, err
}
