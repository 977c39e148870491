package main

import (
	"encoding/json"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"lambent/internal/sandbox"
)

const (
	// maxDials is how many connections are made at a time; more hosts wait in the socket's queue.
	maxDials = 16
	// askTime is how long a host may take to say what it wants, connectTime how long a listener with a full
	// queue may take to have room.
	askTime     = 5 * time.Second
	connectTime = 5 * time.Second
)

// serveDials accepts the questions of hosts for ever. The function has a part in none of it but to listen or
// not to, and each question is a goroutine of its own that is bounded in time.
func serveDials(listener int) {
	turns := make(chan struct{}, maxDials)
	for {
		host, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNABORTED):
			continue
		case err != nil:
			leave(1) // without hosts there is nobody to live for
		}
		turns <- struct{}{}
		go func() {
			answerDial(host)
			<-turns
		}()
	}
}

// answerDial does what one host asks, and hangs up.
func answerDial(host int) {
	defer unix.Close(host)
	if !await(time.Now().Add(askTime), unix.PollFd{Fd: int32(host), Events: unix.POLLIN}) {
		return
	}
	var packet [128]byte
	n, err := unix.Read(host, packet[:])
	var ask sandbox.Dial
	if err != nil || json.Unmarshal(packet[:n], &ask) != nil {
		return // it has gone, or is no host of ours
	}
	var answer sandbox.Dialled
	var rights []byte
	fd, err := dial(host, ask)
	if err == nil {
		defer unix.Close(fd)
		rights = unix.UnixRights(fd)
	} else if errno := unix.Errno(0); errors.As(err, &errno) {
		answer.Errno = int(errno)
	}
	raw, err := json.Marshal(answer)
	if err != nil {
		panic(err) // plain data always marshals
	}
	_ = unix.Sendmsg(host, raw, rights, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT) // fails when the host has gone
}

// dial connects to the port, and tries again while nobody listens and the host waits for it. It pauses for a
// sixteenth of the time so far: what that adds to a start is in proportion, and the tries are few.
func dial(host int, ask sandbox.Dial) (fd int, err error) {
	began := time.Now()
	until := began.Add(min(ask.Wait, sandbox.MaxDialWait))
	loopback4 := &unix.SockaddrInet4{Port: int(ask.Port), Addr: [4]byte{127, 0, 0, 1}}
	loopback6 := &unix.SockaddrInet6{Port: int(ask.Port), Addr: [16]byte{15: 1}}
	for {
		if fd, err = connect(host, unix.AF_INET, loopback4); err != unix.ECONNREFUSED {
			return fd, err
		}
		if fd, err := connect(host, unix.AF_INET6, loopback6); err == nil {
			return fd, nil
		}
		pause := time.Now().Add(min(max(time.Since(began)/16, time.Millisecond), 100*time.Millisecond))
		if pause.After(until) || await(pause, unix.PollFd{Fd: int32(host)}) {
			return -1, err // ECONNREFUSED
		}
	}
}

// connect connects once. A host that hangs up ends it.
func connect(host, family int, to unix.Sockaddr) (fd int, err error) {
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	if err = unix.Connect(fd, to); err == unix.EINPROGRESS {
		err = finish(host, fd)
	}
	if err == nil && isLoop(fd) {
		err = unix.ECONNREFUSED
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// finish waits for the outcome of a connect.
func finish(host, fd int) error {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}, {Fd: int32(host)}}
	if !await(time.Now().Add(connectTime), fds...) {
		return unix.ETIMEDOUT
	}
	if fds[0].Revents == 0 {
		return unix.ECANCELED
	}
	errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && errno != 0 {
		err = unix.Errno(errno)
	}
	return err
}

// isLoop tells whether a socket is connected to itself. TCP does that when nobody listens on a port that
// the kernel then chooses as the one to connect from.
func isLoop(fd int) bool {
	here, err := unix.Getsockname(fd)
	if err != nil {
		return false
	}
	there, err := unix.Getpeername(fd)
	if err != nil {
		return false
	}
	switch here := here.(type) {
	case *unix.SockaddrInet4:
		there, ok := there.(*unix.SockaddrInet4)
		return ok && here.Port == there.Port
	case *unix.SockaddrInet6:
		there, ok := there.(*unix.SockaddrInet6)
		return ok && here.Port == there.Port
	}
	return false
}

// await waits until something is to be said of one of fds, and tells whether that was before the time was up.
// The end of a connection is always said.
func await(until time.Time, fds ...unix.PollFd) bool {
	for {
		left := max(0, time.Until(until))
		n, err := unix.Poll(fds, int((left+time.Millisecond-1)/time.Millisecond))
		if !errors.Is(err, unix.EINTR) {
			return n > 0
		}
	}
}
