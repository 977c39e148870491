package fault

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// DropSockets ends connections of a process in the middle, as a network or a peer that breaks does, and gives their number:
// those of which the peer's address (host and port, or the path of a unix socket) is what which wants. The process need
// not be under a filter. It takes root.
func DropSockets(pid int, which func(peer string) bool) (dropped int, err error) {
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return 0, os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(process)
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		number, err := strconv.Atoi(e.Name())
		if err != nil {
			return dropped, err
		}
		fd, err := unix.PidfdGetfd(process, number, 0)
		if errors.Is(err, unix.EBADF) {
			continue // it has been closed
		}
		if err != nil {
			return dropped, os.NewSyscallError("pidfd_getfd", err)
		}
		if peer, err := unix.Getpeername(fd); err == nil && which(describe(peer)) {
			err = unix.Shutdown(fd, unix.SHUT_RDWR)
			if err == nil {
				dropped++
			}
		}
		unix.Close(fd)
	}
	return dropped, nil
}

func describe(a unix.Sockaddr) string {
	switch a := a.(type) {
	case *unix.SockaddrUnix:
		return a.Name
	case *unix.SockaddrInet4:
		return fmt.Sprintf("%d.%d.%d.%d:%d", a.Addr[0], a.Addr[1], a.Addr[2], a.Addr[3], a.Port)
	}
	return ""
}
