package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// conversation is a client that has one WebSocket open all the time. When it is closed as servers close what they
// restart, the client opens another and sends again what has no echo yet.
type conversation struct {
	load *load

	mu      sync.Mutex // guards what follows
	waiting []string   // for their echo, the oldest first
}

// converse sends messages at a steady rate until length is over, and waits for the last echoes.
func (l *load) converse(ctx context.Context, length time.Duration) {
	c := &conversation{load: l}
	stop, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	for stop.Err() == nil || c.open() > 0 {
		socket, header, used := c.dial(ctx)
		if socket == nil {
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
			}
			if ctx.Err() != nil || stop.Err() != nil {
				c.fail(&failure{text: "there is no connection to send it on"})
				return
			}
			continue
		}
		began := time.Now()
		err := c.talk(ctx, stop, socket)
		_ = socket.CloseNow() // err tells how it ended
		switch status := websocket.CloseStatus(err); {
		case err == nil:
			return
		case status == websocket.StatusServiceRestart, status == websocket.StatusGoingAway, status == websocket.StatusNormalClosure:
		case l.crossed(used, began):
			c.fail(&failure{text: err.Error(), crossed: true})
		default:
			c.fail(l.why(ctx, header, fmt.Sprintf("the connection broke: %v", err)))
		}
	}
}

func (c *conversation) open() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.waiting)
}

// fail ends what has no echo.
func (c *conversation) fail(why *failure) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range c.waiting {
		c.load.ledger.end(id, why)
	}
	c.waiting = nil
}

// dial opens the WebSocket, which is a request of its own. It gives nil when that has failed.
func (c *conversation) dial(ctx context.Context) (*websocket.Conn, http.Header, net.Conn) {
	id := c.load.id()
	c.load.ledger.send(id, "socket, to open")
	var used net.Conn
	var began time.Time
	bound, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	traced := httptrace.WithClientTrace(bound, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { used, began = info.Conn, time.Now() },
	})
	socket, resp, err := websocket.Dial(traced, "ws://"+c.load.host+"/fn/socket/ws?id="+id, &websocket.DialOptions{HTTPClient: c.load.fresh})
	if err == nil {
		c.load.ledger.end(id, nil)
		return socket, resp.Header, used
	}
	why := &failure{text: err.Error(), crossed: c.load.crossed(used, began)}
	if resp != nil {
		if raw, err := io.ReadAll(resp.Body); err == nil {
			why = told(resp.StatusCode, raw)
		}
	}
	c.load.ledger.end(id, why)
	return nil, nil, nil
}

// talk sends and takes messages until the connection ends, or all is said after stop. It gives nil for that.
func (c *conversation) talk(ctx, stop context.Context, socket *websocket.Conn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- c.listen(ctx, socket) }()
	c.mu.Lock()
	again := slices.Clone(c.waiting)
	c.mu.Unlock()
	for _, id := range again {
		if socket.Write(ctx, websocket.MessageText, []byte(id)) != nil {
			return <-ended
		}
	}
	tick := time.NewTicker(time.Second / messages)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			return err
		case <-stop.Done():
			return c.finish(ctx, socket, ended)
		case <-tick.C:
			id := c.load.id()
			c.load.ledger.send(id, "socket")
			c.mu.Lock()
			c.waiting = append(c.waiting, id)
			c.mu.Unlock()
			if socket.Write(ctx, websocket.MessageText, []byte(id)) != nil {
				return <-ended // with the reason
			}
		}
	}
}

// finish waits for the last echoes and closes.
func (c *conversation) finish(ctx context.Context, socket *websocket.Conn, ended <-chan error) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for c.open() > 0 {
		select {
		case err := <-ended:
			return err
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%d echoes did not come", c.open())
		}
	}
	_ = socket.Close(websocket.StatusNormalClosure, "") // all was said; how it ends is no message's matter
	return nil
}

// listen takes the echoes, which have to come once each and in order.
func (c *conversation) listen(ctx context.Context, socket *websocket.Conn) error {
	for {
		_, echo, err := socket.Read(ctx)
		if err != nil {
			return err
		}
		c.mu.Lock()
		expected := len(c.waiting) > 0 && c.waiting[0] == string(echo)
		if expected {
			c.waiting = c.waiting[1:]
		}
		c.mu.Unlock()
		if !expected {
			c.load.ledger.odd(fmt.Sprintf("echo %q comes out of turn, or twice", echo))
			continue
		}
		c.load.ledger.end(string(echo), nil)
	}
}
