package wire

import (
	"encoding/binary"
	"fmt"
)

const (
	// Window is how many bytes of a body may be under way in one direction of one stream.
	Window = 256 << 10
	// firstWindow is how many of a response may be when nothing of it has been read: what clients that do not read can have
	// the daemon keep.
	firstWindow = 32 << 10
	// maxWide is how many responses may have a Window at a time. For the others it stays the first.
	maxWide = 256
	// MaxStreams is how many requests a connection carries at a time.
	MaxStreams = 4096
	// MaxHead is the size of the head of a request or a response, as it is encoded.
	MaxHead = 256 << 10
	// MaxLine is the length of one line of a log.
	MaxLine = 64 << 10
	// MaxLog is how many bytes of its log a request may give.
	MaxLog = 1 << 20
	// MaxFiles is how many descriptors a program may be loaded from.
	MaxFiles = 8

	maxResult = 64 << 10
	maxData   = 32 << 10  // of a body in one frame
	maxFrame  = 1 << 20   // more than all sections of a frame together, but for what loads a program
	maxSpec   = 1<<24 - 1 // that, which holds all secrets of a function; no frame can be longer
	frameHead = 8
)

type kind byte

const (
	kindLoad kind = iota + 1
	kindUnload
	kindIn
	kindCredit
	kindCancel
	kindHello
	kindLoaded
	kindOut
	kindLog
)

// Flags of in and out frames, in the high bits of their type.
const (
	flagHead = 0x40
	flagEnd  = 0x80 // of an out frame: it has a result
	flags    = flagHead | flagEnd
)

// ProtocolError tells how the peer broke the protocol. It is the end of the connection.
type ProtocolError struct{ Text string }

// Error says what the peer did.
func (e *ProtocolError) Error() string { return "the peer broke the protocol: " + e.Text }

func violation(format string, args ...any) error {
	return &ProtocolError{fmt.Sprintf(format, args...)}
}

// begin appends the head of a frame whose length is not known yet; end fills it in.
func begin(b []byte, k kind, id uint32) []byte {
	b = append(b, 0, 0, 0, byte(k))
	return binary.LittleEndian.AppendUint32(b, id)
}

// end fills in the length of the frame that begins at b[at].
func end(b []byte, at int) []byte {
	n := len(b) - at - frameHead
	b[at], b[at+1], b[at+2] = byte(n), byte(n>>8), byte(n>>16)
	return b
}

// frame is one frame as it was read. Its payload is valid until the next is read.
type frame struct {
	kind    kind
	flags   byte
	id      uint32
	payload []byte
}

// next takes the first frame, of at most limit bytes, off b. size is how much of b it needs, which may be more than there is: then it is none.
func next(b []byte, limit int) (f frame, size int, err error) {
	if len(b) < frameHead {
		return f, frameHead, nil
	}
	n := int(b[0]) | int(b[1])<<8 | int(b[2])<<16
	if n > limit {
		return f, 0, violation("a frame of %d bytes", n)
	}
	size = frameHead + n
	if len(b) < size {
		return f, size, nil
	}
	f = frame{kind: kind(b[3] &^ flags), flags: b[3] & flags, id: binary.LittleEndian.Uint32(b[4:]), payload: b[frameHead:size]}
	if f.flags != 0 && f.kind != kindIn && f.kind != kindOut {
		return f, 0, violation("a frame of type %d", b[3])
	}
	return f, size, nil
}

// section takes a section of at most limit bytes off the payload.
func (f *frame) section(limit int) ([]byte, error) {
	if len(f.payload) < 4 {
		return nil, violation("a section without its length")
	}
	n := binary.LittleEndian.Uint32(f.payload)
	if uint64(n) > uint64(min(limit, len(f.payload)-4)) {
		return nil, violation("a section of %d bytes in a frame of %d", n, len(f.payload))
	}
	s := f.payload[4 : 4+n]
	f.payload = f.payload[4+n:]
	return s, nil
}

// trailer takes a section off the end of the payload, where its length comes after it.
func (f *frame) trailer(limit int) ([]byte, error) {
	at := len(f.payload) - 4
	if at < 0 {
		return nil, violation("a section without its length")
	}
	n := binary.LittleEndian.Uint32(f.payload[at:])
	if uint64(n) > uint64(min(limit, at)) {
		return nil, violation("a section of %d bytes in a frame of %d", n, len(f.payload))
	}
	s := f.payload[at-int(n) : at]
	f.payload = f.payload[:at-int(n)]
	return s, nil
}

// number is the payload of a frame that carries one.
func (f *frame) number() (uint32, error) {
	if len(f.payload) != 4 {
		return 0, violation("a number of %d bytes", len(f.payload))
	}
	return binary.LittleEndian.Uint32(f.payload), nil
}

func appendNumber(b []byte, k kind, id, n uint32) []byte {
	at := len(b)
	return end(binary.LittleEndian.AppendUint32(begin(b, k, id), n), at)
}

// beginSection appends room for a section's length; endSection fills it in.
func beginSection(b []byte) []byte { return append(b, 0, 0, 0, 0) }

func endSection(b []byte, at int) []byte {
	binary.LittleEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	return b
}
