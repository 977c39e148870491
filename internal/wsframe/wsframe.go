// Package wsframe follows the frames of a WebSocket (RFC 6455, section 5) in a stream of bytes. It does not look into
// what they carry, and does not judge them.
package wsframe

import (
	"crypto/rand"
	"encoding/binary"
)

const opClose = 8

// Border follows one direction of a WebSocket and knows where a frame ends. Its zero value is before the first one.
type Border struct {
	head [10]byte // without the masking key
	have int      // bytes of the present frame's head
	need int      // bytes of it that there will be, as far as is known; 0 between frames
	left uint64   // bytes of the payload to come
	// Closed says that a Close frame has come, or begun to.
	Closed bool
}

// IsClose tells whether a frame that begins with that byte is a Close frame.
func IsClose(first byte) bool { return first&0x0f == opClose }

// At tells whether a frame may begin here.
func (b *Border) At() bool { return b.need == 0 && b.left == 0 }

// Skip goes over p.
func (b *Border) Skip(p []byte) {
	for len(p) > 0 {
		p = p[b.Next(p):]
	}
}

// Next goes over p to the end of a frame, or of p, and gives how many bytes that were.
func (b *Border) Next(p []byte) int {
	n := 0
	if b.left == 0 {
		n = b.begin(p)
	}
	step := min(b.left, uint64(len(p)-n))
	b.left -= step
	return n + int(step)
}

// begin takes what p has of a frame's head.
func (b *Border) begin(p []byte) int {
	if b.need == 0 {
		b.have, b.need = 0, 2
	}
	n := 0
	for b.have < b.need && n < len(p) {
		if b.have < len(b.head) {
			b.head[b.have] = p[n]
		}
		n++
		if b.have++; b.have == 2 {
			b.need += extended(b.head[1])
			b.Closed = b.Closed || IsClose(b.head[0])
		}
	}
	if b.have == b.need {
		b.left, b.need = b.length(), 0
	}
	return n
}

// extended gives how many bytes of a head come after its second, which is given.
func extended(second byte) (n int) {
	if masked := second&0x80 != 0; masked {
		n = 4
	}
	switch second & 0x7f {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	return n
}

func (b *Border) length() uint64 {
	switch n := b.head[1] & 0x7f; n {
	case 126:
		return uint64(binary.BigEndian.Uint16(b.head[2:]))
	case 127:
		return binary.BigEndian.Uint64(b.head[2:])
	default:
		return uint64(n)
	}
}

// Close gives a Close frame with a status code (section 7.4) and a reason of at most 123 bytes, masked as a client's
// frames must be.
func Close(code uint16, reason string, masked bool) []byte {
	payload := append(binary.BigEndian.AppendUint16(nil, code), reason...)
	frame := []byte{0x80 | opClose, byte(len(payload))}
	if masked {
		var key [4]byte
		rand.Read(key[:]) // never fails
		frame[1] |= 0x80
		frame = append(frame, key[:]...)
		for i := range payload {
			payload[i] ^= key[i%4]
		}
	}
	return append(frame, payload...)
}
