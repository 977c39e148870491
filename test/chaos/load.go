package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"lambent"
	"lambent/client"
	"lambent/test/measure"
)

// load calls a fleet: requests arrive at a steady rate, whatever the answers take. Its connections are kept alive. It
// sends POST, which no client sends again by itself.
type load struct {
	host    string
	client  *client.Client // to ask why an answer broke off
	ledger  *ledger
	http    *http.Client
	fresh   *http.Client // a connection for each request
	patient atomic.Bool  // while nobody listens, connecting waits

	calls sync.WaitGroup
	last  atomic.Int64 // number of an id

	mu    sync.Mutex // guards kills
	kills []span
}

// span is when the daemon was being killed: from before the signal until its end was known.
type span struct{ from, to time.Time }

// rates are requests a second, 300 in all with the messages of the WebSockets.
var rates = []struct {
	function, path string
	rate           int
	body           []byte
	check          func(answer, id string) error
}{
	{"handler", "/fn/handler/?id=", 60, []byte("x"), nil},
	{"server", "/fn/server/work?id=", 60, []byte("x"), nil},
	{"server", "/fn/server:" + prod + "/work?id=", 60, []byte("x"), nil},
	{"fetch", "/fn/fetch/?id=", 20, []byte("x"), nil},
	{"stream", "/fn/stream/stream?for=2s&id=", 10, []byte("x"), checkStream},
	{"upload", "/fn/upload/upload?id=", 40, cargo, checkDigest},
}

const (
	sockets  = 10
	messages = 5 // a second on each
	patience = time.Minute
)

// cargo is what is uploaded.
var cargo = bytes.Repeat([]byte("0123456789abcdef"), 4<<10)

var digest = fmt.Sprintf("%x", sha256.Sum256(cargo))

func checkDigest(answer, id string) error {
	if answer != digest {
		return fmt.Errorf("%s has another digest: %.200q", id, answer)
	}
	return nil
}

// checkStream wants every line of a stream, once and in order; the last is cut off already.
func checkStream(answer, id string) error {
	lines := strings.Fields(answer)
	for i, line := range lines {
		if line != fmt.Sprint(i) {
			return fmt.Errorf("%s has line %q where %d should be", id, line, i)
		}
	}
	if len(lines) != 20 {
		return fmt.Errorf("%s has %d lines", id, len(lines))
	}
	return nil
}

func newLoad(d *measure.Daemon, l *ledger) *load {
	out := &load{host: d.Host, client: d.Client, ledger: l}
	transport := &http.Transport{DialContext: out.dial, MaxIdleConnsPerHost: 256}
	out.http = &http.Client{Transport: transport, Timeout: patience}
	out.fresh = &http.Client{Transport: &http.Transport{DialContext: out.dial, DisableKeepAlives: true}}
	return out
}

// conn knows when it was made.
type conn struct {
	net.Conn
	made time.Time
}

func (l *load) dial(ctx context.Context, network, address string) (net.Conn, error) {
	var dialer net.Dialer
	for {
		c, err := dialer.DialContext(ctx, network, address)
		if err == nil {
			return conn{c, time.Now()}, nil
		}
		// A connection that the daemon dies before it accepts is reset.
		if gone := errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET); !gone || !l.patient.Load() {
			return nil, err
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// killing says that the daemon is being killed, until over is called.
func (l *load) killing() (over func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i, now := len(l.kills), time.Now()
	l.kills = append(l.kills, span{now, now.Add(patience)})
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.kills[i].to = time.Now()
	}
}

// noticed is how long a client may take to see that an idle connection has gone.
const noticed = 100 * time.Millisecond

// crossed tells whether what began on c at that moment was under way when the daemon was killed.
func (l *load) crossed(c net.Conn, began time.Time) bool {
	made, ok := c.(conn)
	if !ok {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for _, k := range l.kills {
		if made.made.Before(k.to) && began.Before(k.to.Add(noticed)) && now.After(k.from) {
			return true
		}
	}
	return false
}

func (l *load) id() string { return fmt.Sprintf("r-%d", l.last.Add(1)) }

// run calls the fleet until length is over, and returns when all that it began has come to an end.
func (l *load) run(ctx context.Context, length time.Duration) {
	defer l.http.CloseIdleConnections()
	for i, r := range rates {
		l.calls.Go(func() {
			time.Sleep(time.Duration(i) * time.Second / rate) // so that the kinds do not come in step
			measure.Every(ctx, length, time.Second/time.Duration(r.rate), func() {
				l.calls.Go(func() {
					id := l.id()
					l.ledger.send(id, r.function)
					l.ledger.end(id, l.call(ctx, r.path+id, r.body, id, r.check))
				})
			})
		})
	}
	for range sockets {
		l.calls.Go(func() { l.converse(ctx, length) })
	}
	l.calls.Wait()
}

// call sends a request and gives why it failed, nil if it did not.
func (l *load) call(ctx context.Context, path string, body []byte, id string, check func(answer, id string) error) *failure {
	var used net.Conn
	var began time.Time
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { used, began = info.Conn, time.Now() },
	})
	req, err := http.NewRequestWithContext(traced, http.MethodPost, "http://"+l.host+path, bytes.NewReader(body))
	if err != nil {
		return &failure{text: err.Error()}
	}
	req.Header.Set("Content-Type", "text/plain")
	resp, err := l.http.Do(req)
	if err != nil {
		return &failure{text: err.Error(), crossed: l.crossed(used, began)}
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		why := l.why(ctx, resp.Header, fmt.Sprintf("the answer broke off: %v", err))
		why.crossed = l.crossed(used, began)
		return why
	}
	if resp.StatusCode != http.StatusOK {
		failed := told(resp.StatusCode, raw)
		failed.instance = l.why(ctx, resp.Header, "").instance
		return failed
	}
	answer, found := strings.CutPrefix(string(raw), "done "+id+" ")
	if i := strings.LastIndex(string(raw), "done "+id+" "); !found && i >= 0 {
		answer, found = string(raw[:i]), true
	}
	if !found {
		return &failure{text: fmt.Sprintf("the answer is another's: %.200q", raw)}
	}
	if check != nil {
		if err := check(strings.TrimSpace(answer), id); err != nil {
			return &failure{text: err.Error()}
		}
	}
	return nil
}

// told is the failure that the platform tells.
func told(status int, raw []byte) *failure {
	var body struct {
		Error lambent.Error `json:"error"`
	}
	if err := json.Unmarshal(raw, &body); err != nil {
		return &failure{text: fmt.Sprintf("status %d: %.200q", status, raw)}
	}
	return &failure{fault: body.Error.Fault, code: body.Error.Code, text: body.Error.Message}
}

// why asks for the record of an invocation whose answer broke off.
func (l *load) why(ctx context.Context, header http.Header, text string) *failure {
	invocation := header.Get("Lambent-Invocation")
	for began := time.Now(); time.Since(began) < 5*time.Second && ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
		record, err := l.client.Invocation(ctx, invocation)
		if err != nil {
			continue // it is not written yet, or nobody is there to ask
		}
		if record.Error == nil {
			return &failure{text: text + ", but its record knows of no error", instance: record.Instance}
		}
		return &failure{fault: record.Error.Fault, code: record.Error.Code, text: record.Error.Message, instance: record.Instance}
	}
	return &failure{text: text + ", and there is no record of it"}
}
