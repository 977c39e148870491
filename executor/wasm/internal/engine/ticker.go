package engine

import (
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
	_ "unsafe" // for linkname
)

const (
	tick      = time.Millisecond // how long a guest runs before it is asked for a turn
	maxTokens = 64               // guests that run at a time, at most
	idleTicks = 100              // ticks without a call after which the ticker sleeps until there is one
)

// ticker asks the guests that run for a call of yield, each tick, by a store to their epoch globals.
//
// It is a thread that the scheduler of Go takes to be in a system call for as long as it lives. A goroutine would not do:
// to collect garbage Go stops all goroutines, one that ticks like any other, and would then wait for ever for a guest
// in a loop that nobody asks. So the code of the thread must do without what needs the scheduler: it does not
// allocate, lock, grow its stack or store pointers, and the race detector, which needs it, does not see it.
//
// The thread may read a cell, be put off by the kernel, and store to it late: after the guest has left its token. In a guest
// that lives that is one call of yield for nothing. Of one that is gone the memory must still be there: see retire.
type ticker struct {
	cells  [maxTokens]atomic.Pointer[uint32] // by token: epoch of the guest that runs on it
	calls  atomic.Uint32                     // counts the tokens taken; the thread sleeps on it
	asleep atomic.Uint32                     // the thread sleeps or is about to
	round  atomic.Uint32                     // counts ticks
	stop   atomic.Uint32
	done   chan struct{}
}

func startTicker() *ticker {
	t := &ticker{done: make(chan struct{})}
	go func() {
		defer close(t.done)
		t.loop()
	}()
	return t
}

func (t *ticker) close() {
	t.stop.Store(1)
	t.wake()
	<-t.done
}

// on makes cell the one of token.
func (t *ticker) on(token int, cell *uint32) {
	t.cells[token].Store(cell)
	t.calls.Add(1)
	if t.asleep.Load() != 0 {
		t.wake()
	}
}

func (t *ticker) off(token int) { t.cells[token].Store(nil) }

// wake ends the thread's sleep. Nobody can miss it: the thread says that it sleeps before the kernel compares calls with what
// it knows, and callers count before they look.
func (t *ticker) wake() {
	t.calls.Add(1)
	const futexWakePrivate = 1 | 128
	_, _, _ = syscall.Syscall6(syscall.SYS_FUTEX, uintptr(unsafe.Pointer(&t.calls)), futexWakePrivate, 1, 0, 0, 0)
}

//go:linkname entersyscall runtime.entersyscall
func entersyscall()

//go:linkname exitsyscall runtime.exitsyscall
func exitsyscall()

// loop is the thread. It reads and writes plainly what others use atomically, as the race detector's atomics need the
// scheduler: all of it is words, and the system call between two rounds keeps the compiler and the processor honest.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (t *ticker) loop() {
	entersyscall()
	const futexWaitPrivate = 0 | 128
	pause := syscall.Timespec{Nsec: int64(tick)}
	calls := (*uint32)(unsafe.Pointer(&t.calls))
	asleep := (*uint32)(unsafe.Pointer(&t.asleep))
	round := (*uint32)(unsafe.Pointer(&t.round))
	stop := (*uint32)(unsafe.Pointer(&t.stop))
	seen, idle := *calls, 0
	for *stop == 0 {
		_, _, _ = syscall.RawSyscall(syscall.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&pause)), 0, 0)
		*round++
		if now := *calls; now != seen {
			seen, idle = now, 0
		}
		idle++
		for i := range maxTokens {
			cell := *(**uint32)(unsafe.Pointer(&t.cells[i]))
			if cell != nil {
				*cell = 1
				idle = 0
			}
		}
		if idle > idleTicks {
			*asleep = 1
			_, _, _ = syscall.RawSyscall6(syscall.SYS_FUTEX, uintptr(unsafe.Pointer(calls)), futexWaitPrivate, uintptr(seen), 0, 0, 0)
			*asleep = 0
		}
	}
	exitsyscall()
}
