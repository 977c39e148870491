package abi

import (
	"bytes"
	"strings"
)

const (
	maxLine   = 4 << 10 // longer lines of the log are split
	maxTail   = 8 << 10 // bytes of the log in an error's trace
	tailLines = 20
)

var streams = [3]string{1: "stdout", 2: "stderr"}

// lines makes whole lines of what a guest writes, which may be by the letter.
type lines struct{ held []byte }

// log takes what the guest wrote to a descriptor.
func (c *Call) log(fd int, p []byte) {
	for len(p) > piece {
		c.logPiece(fd, p[:piece])
		p = p[piece:]
		c.yield()
	}
	c.logPiece(fd, p)
}

func (c *Call) logPiece(fd int, p []byte) {
	if fd == 2 {
		c.tail = append(c.tail, p[max(0, len(p)-maxTail):]...)
		if len(c.tail) > 4*maxTail {
			c.tail = c.tail[:copy(c.tail, c.tail[len(c.tail)-maxTail:])]
		}
	}
	l := &c.logs[fd]
	end := bytes.LastIndexByte(p, '\n') + 1
	if end > 0 {
		whole := p[:end]
		if len(l.held) > 0 {
			whole = append(l.held, whole...)
			l.held = l.held[:0]
		}
		c.emit(fd, whole)
		p = p[end:]
	}
	for len(l.held)+len(p) >= maxLine {
		n := maxLine - len(l.held)
		l.held = append(append(l.held, p[:n]...), '\n')
		c.emit(fd, l.held)
		l.held, p = l.held[:0], p[n:]
	}
	l.held = append(l.held, p...)
}

// end gives the last line, which has no end of its own.
func (l *lines) end(c *Call, fd int) {
	if len(l.held) > 0 {
		c.emit(fd, append(l.held, '\n'))
		l.held = nil
	}
}

func (c *Call) emit(fd int, p []byte) {
	if c.Log != nil {
		c.Log(streams[fd], p)
	}
}

// lastLines is the end of what the guest wrote to stderr.
func (c *Call) lastLines() string {
	tail := c.tail[max(0, len(c.tail)-maxTail):]
	last := strings.Split(strings.TrimRight(string(tail), "\n"), "\n")
	return strings.Join(last[max(0, len(last)-tailLines):], "\n")
}
