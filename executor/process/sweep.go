package process

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"lambent"
	"lambent/internal/sandbox"
)

// initName, the executor's name and the instance's id are a lambent-init's command line, by which it is found after
// a crash.
const initName = "lambent-init"

// idOf gives the id of the instance whose lambent-init a process is; "" if it is none of that name's.
func idOf(pid int, name string) string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	id, ours := bytes.CutPrefix(raw, []byte(initName+"\x00"+name+"\x00"))
	if err != nil || !ours || bytes.IndexByte(id, 0) != len(id)-1 {
		return ""
	}
	return string(id[:len(id)-1])
}

// initsOf gives the instances' ids of all lambent-inits of the name, by their pids.
func initsOf(name string) (map[int]string, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	found := map[int]string{}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if id := idOf(pid, name); id != "" {
				found[pid] = id
			}
		}
	}
	return found, nil
}

// sweepers is how many instances are swept at a time: it is mostly waiting for the kernel.
const sweepers = 16

// Sweep implements executor.Adopter. It goes by what is there and not by what is written, so it takes half-made instances
// too, and damaged ones.
func (e *Executor) Sweep() error {
	if e.away != nil {
		return nil
	}
	left, err := e.leftovers()
	if err != nil {
		return err
	}
	// Root finds all in its cgroups, and shall not be told by a command line whom to kill.
	inits := map[string][]int{}
	if e.level != lambent.IsolationFull {
		found, err := initsOf(e.name)
		if err != nil {
			return err
		}
		for pid, id := range found {
			if !e.answersFor(id) {
				inits[id] = append(inits[id], pid)
				left = append(left, id)
			}
		}
		slices.Sort(left)
		left = slices.Compact(left)
	}
	errs := make([]error, len(left))
	turns := make(chan struct{}, sweepers)
	var all sync.WaitGroup
	for i, id := range left {
		all.Go(func() {
			turns <- struct{}{}
			errs[i] = e.sweepOne(id, inits[id])
			<-turns
		})
	}
	all.Wait()
	return errors.Join(append(errs, e.sweepUsers(), e.sweepShims())...)
}

// leftovers are the ids of what is there of instances that this process does not answer for. What comes to be later is
// not among them.
func (e *Executor) leftovers() ([]string, error) {
	entries, err := os.ReadDir(e.path("", ""))
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, entry := range entries {
		ids = append(ids, entry.Name())
	}
	if e.tree != nil {
		groups, err := e.tree.Groups()
		if err != nil {
			return nil, err
		}
		ids = append(ids, groups...)
		slices.Sort(ids)
		ids = slices.Compact(ids)
	}
	return slices.DeleteFunc(ids, e.answersFor), nil
}

// answersFor tells whether this process answers for an instance.
func (e *Executor) answersFor(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, ours := e.instances[id]
	return ours
}

// sweepOne ends what is left of an instance and clears it away, unless somebody has begun to adopt it.
func (e *Executor) sweepOne(id string, inits []int) error {
	if !e.claim(id) {
		return nil
	}
	defer e.forget(id, nil)
	var errs []error
	for _, pid := range inits {
		errs = append(errs, endInit(pid, e.name, id))
	}
	if e.tree != nil {
		errs = append(errs, e.tree.Group(id).Remove())
	}
	return errors.Join(append(errs, os.RemoveAll(e.path(id, "")))...)
}

func endInit(pid int, name, id string) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil // it has ended
	}
	defer unix.Close(fd)
	if idOf(pid, name) != id { // now that the pid cannot become another's
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

// sweepUsers frees the users that were kept for instances which are gone now.
func (e *Executor) sweepUsers() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, user := range e.reserved {
		_, err := os.Lstat(e.path(id, ""))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			e.users.free(user)
			delete(e.reserved, id)
		case err != nil:
			return err
		}
	}
	return nil
}

// sweepShims removes the shims that no instance sees any more.
func (e *Executor) sweepShims() error {
	used := map[string]bool{e.shims.name(): true}
	e.mu.Lock()
	ids := slices.Collect(maps.Keys(e.instances))
	e.mu.Unlock()
	for _, id := range ids {
		if s, err := e.load(id); err == nil { // else it has not begun or has ended, or sees those of this process
			used[s.Shims] = true
		}
	}
	folder := filepath.Dir(e.shims.dir)
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		if !used[entry.Name()] {
			errs = append(errs, os.RemoveAll(filepath.Join(folder, entry.Name())))
		}
	}
	return errors.Join(errs...)
}

// userOf gives the user of an instance, by the name of the folder that its root is mounted on; 0 when there is none.
func (e *Executor) userOf(id string) int {
	entries, err := os.ReadDir(e.path(id, ""))
	if err != nil {
		return 0 // it has gone, or was never made
	}
	for _, entry := range entries {
		if text, ok := strings.CutPrefix(entry.Name(), fileRoot); ok {
			if user, err := strconv.Atoi(text); err == nil && user > 0 {
				return user
			}
		}
	}
	return 0
}
