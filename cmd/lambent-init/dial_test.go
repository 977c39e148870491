package main

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// TestIsLoop connects a socket to itself, as the kernel may do when nobody listens.
func TestIsLoop(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := &unix.SockaddrInet4{Port: l.Addr().(*net.TCPAddr).Port, Addr: [4]byte{127, 0, 0, 1}}
	socket := func() int {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	fd := socket()
	if err := unix.Connect(fd, at); err != nil || isLoop(fd) {
		t.Errorf("connected to another: %v, taken for itself: %v", err, isLoop(fd))
	}
	l.Close()
	own := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	fd = socket()
	if err := unix.Bind(fd, own); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fd, name); err != nil || !isLoop(fd) {
		t.Errorf("connected to itself: %v, found out: %v", err, isLoop(fd))
	}
}
