package gateway

import (
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"lambent"
)

func writeHead(h http.Header, resp *lambent.Response) {
	for name, values := range resp.Header {
		if name != "X-Request-Id" {
			h[name] = values
		}
	}
	if resp.ContentLength >= 0 {
		h["Content-Length"] = []string{strconv.FormatInt(resp.ContentLength, 10)}
	}
}

var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// serverBuffer is what a net/http server takes, beside a head of ordinary size, without writing it out. What
// it writes after the handler has returned holds no slot.
const serverBuffer = 1 << 10

// copyBody streams the answer. It flushes whenever the function pauses, so that what was written arrives.
func copyBody(w http.ResponseWriter, rc *http.ResponseController, resp *lambent.Response, b bound) error {
	left := resp.ContentLength
	if left < 0 {
		if err := b.arm(); err != nil {
			return err
		}
		if err := rc.Flush(); err != nil {
			return err
		}
	}
	buf := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buf)
	for {
		n, err := resp.Body.Read(buf[:])
		if n > 0 {
			if left != int64(n) || n > serverBuffer || b.armed { // else the server just takes it
				if berr := b.arm(); berr != nil {
					return berr
				}
			}
			if _, werr := w.Write(buf[:n]); werr != nil {
				return werr
			}
			left -= int64(n)
			if left != 0 && n < len(buf) && err == nil {
				if ferr := rc.Flush(); ferr != nil {
					return ferr
				}
			}
		}
		if err == io.EOF {
			return b.disarm()
		}
		if err != nil {
			return err
		}
	}
}

// bound keeps a client that does not read from holding a function's slot for ever: no write waits longer
// than the function's idle timeout, give or take a second.
type bound struct {
	idle  time.Duration
	set   func(time.Time) error
	armed bool
	last  time.Time
}

func (b *bound) arm() error {
	now := time.Now()
	if b.armed && now.Sub(b.last) < min(time.Second, b.idle/10) {
		return nil
	}
	b.armed, b.last = true, now
	return b.set(now.Add(b.idle))
}

// disarm leaves the connection as it was, for its next request.
func (b *bound) disarm() error {
	if !b.armed {
		return nil
	}
	return b.set(time.Time{})
}
