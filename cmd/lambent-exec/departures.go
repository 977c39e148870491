package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
)

// departures tells when the host ends its side of a connection, by which it says that it gives the request up.
// net/http learns of that only once it has read the body, which a program may never do.
type departures struct {
	poller int

	mu     sync.Mutex // guards what is below
	next   int32
	leaves map[int32]context.CancelFunc // by the number that the poller knows a connection by
}

func watchDepartures() (*departures, error) {
	poller, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	d := &departures{poller: poller, leaves: map[int32]context.CancelFunc{}}
	go d.watch()
	return d, nil
}

func (d *departures) watch() {
	events := make([]syscall.EpollEvent, 64)
	for {
		n, err := syscall.EpollWait(d.poller, events, -1)
		if err != nil && err != syscall.EINTR {
			fmt.Fprintln(os.Stderr, "lambent-exec: epoll_wait:", err)
			os.Exit(1) // cannot happen: nobody closes the poller
		}
		d.mu.Lock()
		for _, event := range events[:max(n, 0)] {
			if leave := d.leaves[event.Fd]; leave != nil {
				leave()
			}
		}
		d.mu.Unlock()
	}
}

// await calls leave when the other side of conn ends, until forget is called.
func (d *departures) await(conn net.Conn, leave context.CancelFunc) (forget func(), err error) {
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	d.next++
	number := d.next
	d.leaves[number] = leave
	d.mu.Unlock()
	var failed error
	control := func(op int) error {
		err := raw.Control(func(fd uintptr) {
			event := syscall.EpollEvent{Events: syscall.EPOLLRDHUP | syscall.EPOLLONESHOT, Fd: number}
			failed = syscall.EpollCtl(d.poller, op, int(fd), &event)
		})
		if err != nil {
			return err
		}
		return os.NewSyscallError("epoll_ctl", failed)
	}
	forget = func() {
		_ = control(syscall.EPOLL_CTL_DEL) // fails when the connection has been closed, which takes it out too
		d.mu.Lock()
		delete(d.leaves, number)
		d.mu.Unlock()
	}
	if err := control(syscall.EPOLL_CTL_ADD); err != nil {
		forget()
		return nil, err
	}
	return forget, nil
}
