package main

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"lambent/internal/sandbox"
)

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}

// listen makes listening TCP sockets. An address that is none of the loopback net becomes one of this sandbox.
func listen(addresses []sandbox.Address) ([]int, error) {
	var fds []int
	added := map[[4]byte]bool{}
	for _, at := range addresses {
		if at.IP[0] != 127 && !added[at.IP] {
			added[at.IP] = true
			if err := addAddress(at.IP); err != nil {
				return nil, step(fmt.Sprintf("give %d to the loopback interface", at.IP), err)
			}
		}
		fd, err := listenTCP(at)
		if err != nil {
			return nil, step(fmt.Sprintf("listen on %d port %d", at.IP, at.Port), err)
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

func listenTCP(at sandbox.Address) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: int(at.Port), Addr: at.IP}); err != nil {
		return 0, err
	}
	return fd, unix.Listen(fd, unix.SOMAXCONN)
}

// addAddress gives an IPv4 address to the loopback interface, which is number 1 in each network namespace, by
// rtnetlink(7). The older ioctl would give it the whole net of the address's class.
func addAddress(ip [4]byte) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	const size = unix.SizeofNlMsghdr + unix.SizeofIfAddrmsg + unix.SizeofRtAttr + 4
	native := binary.NativeEndian
	m := native.AppendUint32(nil, size)
	m = native.AppendUint16(m, unix.RTM_NEWADDR)
	m = native.AppendUint16(m, unix.NLM_F_REQUEST|unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	m = append(m, make([]byte, 8)...) // sequence and port
	m = append(m, unix.AF_INET, 32, 0, unix.RT_SCOPE_HOST)
	m = native.AppendUint32(m, 1)
	m = native.AppendUint16(m, unix.SizeofRtAttr+4)
	m = native.AppendUint16(m, unix.IFA_LOCAL)
	m = append(m, ip[:]...)
	if err := unix.Sendto(fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, unix.Getpagesize())
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 || native.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return unix.EPROTO
	}
	if errno := -int32(native.Uint32(answer[unix.SizeofNlMsghdr:])); errno != 0 {
		return unix.Errno(errno)
	}
	return nil
}
