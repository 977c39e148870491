package abi

import (
	"math"

	"github.com/tetratelabs/wazero/api"
)

const (
	maxVectors = 1024 // IOV_MAX of Linux

	rightRead, rightWrite, rightPoll = 1 << 1, 1 << 6, 1 << 27

	flagNonblock = 1 << 2
)

// open tells whether fd is one of the three streams, and not closed.
func (c *Call) open(fd uint64) bool {
	n := uint32(fd)
	return n < 3 && !c.closed[n]
}

// vectors checks an array of iovec, and says how many bytes its parts are.
func vectors(m api.Memory, at, count uint32) (table []byte, size uint32, e errno) {
	if count > maxVectors {
		return nil, 0, inval
	}
	table, ok := m.Read(at, count*8)
	if !ok {
		return nil, 0, fault
	}
	total := uint64(0)
	for t := table; len(t) > 0; t = t[8:] {
		n := le.Uint32(t[4:])
		if _, ok := m.Read(le.Uint32(t), n); !ok {
			return nil, 0, fault
		}
		total += uint64(n)
	}
	if total > math.MaxInt32 {
		return nil, 0, inval
	}
	return table, uint32(total), success
}

// part gives the first part of a table. It is checked again: the results of a call may lie in its own table.
func part(m api.Memory, table []byte) []byte {
	b, _ := m.Read(le.Uint32(table), le.Uint32(table[4:]))
	return b
}

// fdRead is fd_read(fd, iovs, iovs_len, nread). It reads what there is into the first part that has room.
func fdRead(c *Call, m api.Memory, p []uint64) errno {
	if uint32(p[0]) != 0 || c.closed[0] {
		return badf
	}
	table, _, e := vectors(m, uint32(p[1]), uint32(p[2]))
	if e != success {
		return e
	}
	if !m.WriteUint32Le(uint32(p[3]), 0) {
		return fault
	}
	for ; len(table) > 0; table = table[8:] {
		if b := part(m, table); len(b) > 0 {
			m.WriteUint32Le(uint32(p[3]), uint32(c.read(b)))
			break
		}
	}
	return success
}

// fdWrite is fd_write(fd, iovs, iovs_len, nwritten).
func fdWrite(c *Call, m api.Memory, p []uint64) errno {
	fd := uint32(p[0])
	if fd == 0 || !c.open(p[0]) {
		return badf
	}
	table, size, e := vectors(m, uint32(p[1]), uint32(p[2]))
	if e != success {
		return e
	}
	if !m.WriteUint32Le(uint32(p[3]), size) {
		return fault
	}
	for ; len(table) > 0; table = table[8:] {
		if b := part(m, table); fd == 1 && c.Kind == Command {
			c.stdout(b)
		} else {
			c.log(int(fd), b)
		}
	}
	return success
}

func fdClose(c *Call, _ api.Memory, p []uint64) errno {
	if !c.open(p[0]) {
		return badf
	}
	c.closed[uint32(p[0])] = true
	return success
}

// fdFdstatGet is fd_fdstat_get(fd, stat). The streams are of an unknown type, as pipes are: libraries buffer what they
// write to one, and not what they write to a terminal.
func fdFdstatGet(c *Call, m api.Memory, p []uint64) errno {
	if !c.open(p[0]) {
		return badf
	}
	stat, ok := m.Read(uint32(p[1]), 24)
	if !ok {
		return fault
	}
	clear(stat)
	rights := uint64(rightWrite | rightPoll)
	if p[0] == 0 {
		rights = rightRead | rightPoll
	}
	le.PutUint64(stat[8:], rights)
	return success
}

// fdFdstatSetFlags is fd_fdstat_set_flags(fd, flags). The streams always wait.
func fdFdstatSetFlags(c *Call, _ api.Memory, p []uint64) errno {
	switch {
	case !c.open(p[0]):
		return badf
	case p[1]&flagNonblock != 0:
		return notsup
	}
	return success
}

// fdFilestatGet is fd_filestat_get(fd, stat).
func fdFilestatGet(c *Call, m api.Memory, p []uint64) errno {
	if !c.open(p[0]) {
		return badf
	}
	stat, ok := m.Read(uint32(p[1]), 64)
	if !ok {
		return fault
	}
	clear(stat)
	return success
}
