package gateway

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"

	"lambent"
)

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
// breaks. A client that ends its side is passed on as that: the function may still answer. A WebSocket is closed
// when it is to be ended for the platform's sake; of other protocols nobody knows how.
func (g *Gateway) switchProtocols(w http.ResponseWriter, rc *http.ResponseController, resp *lambent.Response, inv *lambent.Invocation) {
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
	// To read from rw would cancel the request's context when the client ends its side.
	early, err := rw.Peek(rw.Reader.Buffered())
	if err != nil {
		return
	}
	j := &junction{
		client: conn, function: up,
		fromClient: io.MultiReader(bytes.NewReader(bytes.Clone(early)), conn),
		toClient:   &boundedWriter{conn, bound{idle: inv.Revision.Settings.Timeouts.Idle.D(), set: conn.SetWriteDeadline}},
		toFunction: up,
	}
	if !strings.EqualFold(inv.Upgrade, "websocket") {
		j.join()
		return
	}
	defer g.opt.Tally.add(inv, func(o *Open) *int { return &o.WebSockets })()
	j.joinFrames(resp.Drain)
}

// junction is two connections that are joined.
type junction struct {
	client     net.Conn
	function   lambent.UpgradedBody
	fromClient io.Reader
	toClient   io.Writer
	toFunction io.Writer
}

// join returns when both have ended.
func (j *junction) join() {
	var sending sync.WaitGroup
	sending.Go(j.send)
	j.receive()
	j.cut()
	sending.Wait()
}

// send brings the function what comes from the client.
func (j *junction) send() {
	_, err := io.CopyBuffer(j.toFunction, reader{j.fromClient}, make([]byte, 4<<10))
	if err == nil {
		err = j.function.CloseWrite()
	}
	if err != nil && !errors.Is(err, net.ErrClosed) && err != errFarewell {
		j.function.Close() // ends the other direction
	}
}

// receive brings the client what comes from the function. Its end, whatever the reason, is the end of both.
func (j *junction) receive() {
	buf := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buf)
	_, _ = io.CopyBuffer(j.toClient, reader{j.function}, buf[:])
}

// reader hides what else a Reader can do from io.CopyBuffer, which would use a buffer of its own for it.
type reader struct{ io.Reader }

func (j *junction) cut() {
	j.function.Close()
	j.client.Close()
}
