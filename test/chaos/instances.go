package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"lambent/internal/sandbox"
)

// instances finds the sandboxes of one daemon, without asking it, and reads the journals of the functions in them
// into the ledger. A journal is a pipe that the function makes and the harness opens: what was written to it outlives
// both the function and the daemon.
type instances struct {
	name   string // of the daemon's sandboxes, on the command line of each lambent-init
	ledger *ledger

	readers sync.WaitGroup
	mu      sync.Mutex // guards what follows
	alive   map[string]*sandboxed
	seen    map[int]time.Time // when a pid was first looked at
}

// sandboxed is an instance that has said hello.
type sandboxed struct {
	id       string
	init     int // pid of its lambent-init
	program  int // pid of the function
	function string
}

// tree is the name that the daemon on that folder gives to its control groups and to its sandboxes.
func tree(data string) (string, error) {
	path, err := filepath.EvalSymlinks(filepath.Join(data, "run"))
	sum := sha256.Sum256([]byte(path))
	return hex.EncodeToString(sum[:4]), err
}

func newInstances(data string, l *ledger) (*instances, error) {
	name, err := tree(data)
	return &instances{name: name, ledger: l, alive: map[string]*sandboxed{}, seen: map[int]time.Time{}}, err
}

// look is how often it looks for new sandboxes, which wait for it, and settle how long a process may take to become
// a lambent-init after its fork.
const (
	look   = 10 * time.Millisecond
	settle = 5 * time.Second
)

// watch follows the sandboxes until ctx ends.
func (s *instances) watch(ctx context.Context) {
	for tick := time.NewTicker(look); ; {
		for _, pid := range s.fresh() {
			s.readers.Go(func() { s.follow(ctx, pid) })
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			tick.Stop()
			return
		}
	}
}

// fresh gives the lambent-inits that were not there before.
func (s *instances) fresh() (inits []int) {
	now := time.Now()
	there := map[int]bool{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for pid := range processes() {
		there[pid] = true
		first, known := s.seen[pid]
		if known && now.Sub(first) > settle {
			continue
		}
		if !known {
			s.seen[pid] = now
		}
		if isInit(pid, s.name) {
			s.seen[pid] = time.Time{}
			inits = append(inits, pid)
		}
	}
	maps.DeleteFunc(s.seen, func(pid int, _ time.Time) bool { return !there[pid] })
	return inits
}

// processes gives the pids there are.
func processes() func(yield func(int) bool) {
	return func(yield func(int) bool) {
		dir, err := os.Open("/proc")
		if err != nil {
			return
		}
		defer dir.Close()
		names, err := dir.Readdirnames(-1)
		if err != nil {
			return
		}
		for _, name := range names {
			if pid, err := strconv.Atoi(name); err == nil && !yield(pid) {
				return
			}
		}
	}
}

// isInit tells whether a process is a lambent-init, and not a function that one has just forked.
func isInit(pid int, name string) bool {
	if !called(pid, name) {
		return false
	}
	stat, err := sandbox.Stat(pid)
	if err != nil {
		return false
	}
	parent, err := strconv.Atoi(stat[1])
	return err == nil && !called(parent, name)
}

// called tells whether a process has the command line of a lambent-init.
func called(pid int, name string) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && strings.HasPrefix(string(raw), "lambent-init\x00"+name+"\x00")
}

// follow reads the journal of the sandbox below init until its end.
func (s *instances) follow(ctx context.Context, init int) {
	journal := fmt.Sprintf("/proc/%d/root/tmp/journal", init)
	var file *os.File
	for ctx.Err() == nil {
		f, err := os.OpenFile(journal, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err == nil {
			file = f
			break
		}
		if _, err := sandbox.Stat(init); err != nil {
			return // it has ended without a journal
		}
		time.Sleep(look)
	}
	if file == nil {
		return
	}
	defer file.Close()
	defer context.AfterFunc(ctx, func() { _ = file.SetReadDeadline(time.Now()) })() // a pipe has deadlines
	in := &sandboxed{init: init}
	for {
		lines := bufio.NewScanner(file)
		for lines.Scan() {
			what, id, _ := strings.Cut(lines.Text(), " ")
			s.line(in, what, id)
		}
		if _, err := sandbox.Stat(init); in.id != "" || err != nil || ctx.Err() != nil {
			break // else the function has made the pipe but not opened it yet
		}
		time.Sleep(time.Millisecond)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if in.id != "" && ctx.Err() == nil {
		delete(s.alive, in.id)
	}
}

func (s *instances) line(in *sandboxed, what, id string) {
	switch what {
	case "hello":
		in.id, in.function, _ = strings.Cut(id, " ")
		if below := sandbox.Below(in.init); len(below) > 0 {
			in.program = below[0]
		}
		s.mu.Lock()
		s.alive[in.id] = in
		s.mu.Unlock()
	case "seen":
		s.ledger.see(id, in.id)
	case "read":
		s.ledger.read(id, in.id)
	case "done":
		s.ledger.work(id, in.id)
	}
}

// list gives the instances that live, in order of their ids.
func (s *instances) list() []*sandboxed {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.alive), func(a, b *sandboxed) int { return strings.Compare(a.id, b.id) })
}
