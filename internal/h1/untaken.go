package h1

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
)

// takeBack makes req ready for another Conn after the peer gave back what was sent.
func (x *exchange) takeBack(req *Request, back *ReturnedError) {
	x.c.begun = false
	x.c.sent.Store(0)
	if x.sender == nil {
		return // a small body is in req.wire, no other has been read
	}
	sent := back.Sent[min(x.head, len(back.Sent)):]
	if req.chunked() {
		sent = unchunk(sent)
	}
	req.untaken = &remainder{back: sent, taken: int64(len(sent)), sender: x.sender, src: req.Body}
}

// unchunk gives what is in the chunks that b begins with, which are ours. The last may be cut off.
func unchunk(b []byte) (data []byte) {
	for {
		line, rest, _ := bytes.Cut(b, []byte("\r\n"))
		size, err := strconv.ParseUint(string(line), 16, 31)
		if err != nil || size == 0 {
			return data
		}
		n := min(int(size), len(rest))
		data = append(data, rest[:n]...)
		b = rest[min(n+2, len(rest)):]
	}
}

// remainder is a body that was taken back: what the peer gave back, what its sender had read and could not write
// any more, and what has not been read yet. The sender may still be waiting for some of it.
type remainder struct {
	back   []byte
	taken  int64 // bytes that the peer gave back
	sender *sender
	src    io.ReadCloser
	ended  bool // the sender's part is in back too
}

// Read implements io.Reader.
func (r *remainder) Read(p []byte) (int, error) {
	if len(r.back) == 0 && !r.ended {
		<-r.sender.done
		left := r.sender.read - r.taken
		if left < 0 || left > int64(len(r.sender.unsent)) {
			return 0, fmt.Errorf("%d of %d bytes came back", r.taken, r.sender.read)
		}
		r.back = r.sender.unsent[len(r.sender.unsent)-int(left):]
		r.ended = true
	}
	switch {
	case len(r.back) > 0:
		n := copy(p, r.back)
		r.back = r.back[n:]
		return n, nil
	case r.sender.end != nil:
		return 0, r.sender.end
	}
	return r.src.Read(p)
}

// Close ends a Read that waits, the sender's included.
func (r *remainder) Close() error {
	err := r.src.Close()
	<-r.sender.done
	return err
}
