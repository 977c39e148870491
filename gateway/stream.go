package gateway

import (
	"errors"
	"io"
	"net"
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

// boundedWriter writes to a switched connection.
type boundedWriter struct {
	io.Writer
	bound bound
}

func (w *boundedWriter) Write(p []byte) (int, error) {
	if err := w.bound.arm(); err != nil {
		return 0, err
	}
	return w.Writer.Write(p)
}

// switchProtocols joins the client's connection with the function's until the function ends it or either
// breaks. A client that ends its side is passed on as that: the function may still answer.
func switchProtocols(w http.ResponseWriter, rc *http.ResponseController, resp *lambent.Response, inv *lambent.Invocation) {
	up, ok := resp.Body.(lambent.UpgradedBody)
	if !ok {
		panic("gateway: status 101 without an UpgradedBody")
	}
	defer up.Close()
	writeHead(w.Header(), resp)
	conn, rw, err := rc.Hijack()
	if err != nil {
		lambent.WriteError(w, lambent.Errorf(lambent.CodeInternal, "cannot switch protocols: %w", err))
		return
	}
	defer conn.Close()
	h := w.Header()
	h.Set("Connection", "Upgrade")
	h.Set("Upgrade", inv.Upgrade)
	if _, err := rw.WriteString("HTTP/1.1 101 Switching Protocols\r\n"); err != nil {
		return
	}
	if h.Write(rw) != nil {
		return
	}
	if _, err := rw.WriteString("\r\n"); err != nil || rw.Flush() != nil {
		return
	}
	var up2client sync.WaitGroup
	up2client.Go(func() {
		_, err := io.Copy(up, rw.Reader)
		if err == nil {
			err = up.CloseWrite()
		}
		if err != nil && !errors.Is(err, net.ErrClosed) {
			up.Close() // ends the other direction
		}
	})
	client := &boundedWriter{conn, bound{idle: inv.Revision.Settings.Timeouts.Idle.D(), set: conn.SetWriteDeadline}}
	_, _ = io.Copy(client, up) // its end, whatever the reason, is the end of both
	up.Close()
	conn.Close()
	up2client.Wait()
}
