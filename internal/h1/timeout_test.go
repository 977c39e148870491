package h1_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lambent/internal/h1"
)

// inBubble runs client against peer over a pipe in fake time.
func inBubble(t *testing.T, peer func(conn net.Conn, in *bufio.Reader), client func(t *testing.T, c *h1.Conn)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		var wg sync.WaitGroup
		wg.Go(func() {
			defer theirs.Close()
			peer(theirs, bufio.NewReader(theirs))
		})
		defer wg.Wait()
		defer ours.Close()
		client(t, h1.NewConn(ours))
	})
}

func wantTimeout(t *testing.T, err error, which h1.Limit, began time.Time, after time.Duration) {
	t.Helper()
	var late *h1.TimeoutError
	if !errors.As(err, &late) || late.Which != which {
		t.Fatalf("got %v, want the %s timeout", err, which)
	}
	if took := time.Since(began); took != after {
		t.Errorf("it came after %v, want %v", took, after)
	}
}

const hour = time.Hour

// within makes deadlines from now on; zero is none.
func within(firstByte, total, idle time.Duration) h1.Deadlines {
	d := h1.Deadlines{Idle: idle}
	if firstByte > 0 {
		d.FirstByte = time.Now().Add(firstByte)
	}
	if total > 0 {
		d.Total = time.Now().Add(total)
	}
	return d
}

func TestTimeoutsBeforeTheHead(t *testing.T) {
	silent := func(conn net.Conn, in *bufio.Reader) { io.Copy(io.Discard, in) }
	dripping := func(conn net.Conn, in *bufio.Reader) {
		go io.Copy(io.Discard, in)
		for _, b := range []byte("HTTP/1.1 200 OK\r\nA: " + strings.Repeat("b", 1000)) {
			time.Sleep(time.Second)
			if _, err := conn.Write([]byte{b}); err != nil {
				return
			}
		}
	}
	deaf := func(conn net.Conn, in *bufio.Reader) { time.Sleep(hour) }
	for name, peer := range map[string]func(net.Conn, *bufio.Reader){"silent": silent, "dripping": dripping, "deaf": deaf} {
		for _, tt := range []struct {
			d     [3]time.Duration
			which h1.Limit
			after time.Duration
		}{
			{[3]time.Duration{10 * time.Second, hour, time.Second}, h1.FirstByte, 10 * time.Second},
			{[3]time.Duration{10 * time.Second, 0, 0}, h1.FirstByte, 10 * time.Second},
			{[3]time.Duration{hour, 10 * time.Second, time.Second}, h1.Total, 10 * time.Second},
			{[3]time.Duration{0, 10 * time.Second, 0}, h1.Total, 10 * time.Second},
		} {
			for kind, length := range map[string]int64{"none": 0, "small": 2, "chunked": -1} {
				t.Run(name+"/"+kind+"/"+tt.which.String(), func(t *testing.T) {
					inBubble(t, peer, func(t *testing.T, c *h1.Conn) {
						began := time.Now()
						req := &h1.Request{Method: "POST", Target: "/", Host: "x", ContentLength: length}
						if length != 0 {
							req.Body = body("ok")
						}
						_, err := c.RoundTrip(req, within(tt.d[0], tt.d[1], tt.d[2]))
						wantTimeout(t, err, tt.which, began, tt.after)
					})
				})
			}
		}
	}
}

// The body of the request is late, not the peer: sent inline or not, the limits hold.
func TestTimeoutsOfTheRequestBody(t *testing.T) {
	for kind, length := range map[string]int64{"small": 10, "large": 1 << 20, "chunked": -1} {
		t.Run(kind, func(t *testing.T) {
			inBubble(t, func(conn net.Conn, in *bufio.Reader) { io.Copy(io.Discard, in) }, func(t *testing.T, c *h1.Conn) {
				r, w := io.Pipe()
				defer w.Close()
				began := time.Now()
				_, err := c.RoundTrip(&h1.Request{Method: "POST", Target: "/", Host: "x", ContentLength: length, Body: r},
					within(10*time.Second, hour, time.Second))
				wantTimeout(t, err, h1.FirstByte, began, 10*time.Second)
				if _, err := w.Write([]byte("x")); err != io.ErrClosedPipe {
					t.Errorf("the body was not closed: %v", err)
				}
			})
		})
	}
}

// The timer of one small body must not end a later one.
func TestSmallBodiesOneAfterTheOther(t *testing.T) {
	inBubble(t, func(conn net.Conn, in *bufio.Reader) {
		for {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			io.Copy(io.Discard, r.Body)
			io.WriteString(conn, "HTTP/1.1 204 No\r\n\r\n")
		}
	}, func(t *testing.T, c *h1.Conn) {
		for range 5 {
			r, w := io.Pipe()
			go func() { time.Sleep(7 * time.Second); w.Write([]byte("ok")) }()
			resp, err := c.RoundTrip(&h1.Request{Method: "POST", Target: "/", Host: "x", ContentLength: 2, Body: r}, within(10*time.Second, 0, 0))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			time.Sleep(time.Minute)
		}
	})
}

func TestTimeoutsOfTheBody(t *testing.T) {
	// It answers after 5 s and then writes a byte every 4 s.
	peer := func(conn net.Conn, in *bufio.Reader) {
		go io.Copy(io.Discard, in)
		time.Sleep(5 * time.Second)
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
		for range 10 {
			time.Sleep(4 * time.Second)
			if _, err := io.WriteString(conn, "x"); err != nil {
				return
			}
		}
		time.Sleep(hour)
	}
	for _, tt := range []struct {
		name  string
		d     [3]time.Duration
		which h1.Limit
		after time.Duration
	}{
		{"idle between bytes", [3]time.Duration{6 * time.Second, hour, 3 * time.Second}, h1.Idle, 8 * time.Second},
		{"idle after some", [3]time.Duration{6 * time.Second, hour, 5 * time.Second}, h1.Idle, 50 * time.Second},
		{"idle without total", [3]time.Duration{0, 0, 5 * time.Second}, h1.Idle, 50 * time.Second},
		{"total", [3]time.Duration{6 * time.Second, 20 * time.Second, 5 * time.Second}, h1.Total, 20 * time.Second},
		{"total without idle", [3]time.Duration{6 * time.Second, 20 * time.Second, 0}, h1.Total, 20 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, peer, func(t *testing.T, c *h1.Conn) {
				began := time.Now()
				resp, err := c.RoundTrip(get(), within(tt.d[0], tt.d[1], tt.d[2]))
				if err != nil {
					t.Fatal(err)
				}
				_, err = io.Copy(io.Discard, resp.Body)
				wantTimeout(t, err, tt.which, began, tt.after)
				if _, again := resp.Body.Read(make([]byte, 1)); again != err {
					t.Errorf("then %v", again)
				}
				resp.Body.Close()
			})
		})
	}
}

// A caller that takes its time between two reads is not an idle peer.
func TestSlowReaderIsNotIdle(t *testing.T) {
	inBubble(t, func(conn net.Conn, in *bufio.Reader) {
		http.ReadRequest(in)
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
		for range 4 {
			io.WriteString(conn, "x")
		}
		io.Copy(io.Discard, in)
	}, func(t *testing.T, c *h1.Conn) {
		resp, err := c.RoundTrip(get(), within(time.Second, hour, time.Second))
		if err != nil {
			t.Fatal(err)
		}
		for range 4 {
			time.Sleep(time.Minute)
			if n, err := resp.Body.Read(make([]byte, 1)); n != 1 {
				t.Fatal(n, err)
			}
		}
		resp.Body.Close()
		if !c.Reusable() {
			t.Error("not reusable")
		}
	})
}

// While the upload flows, a silent response is not idle; when it stands still it is.
func TestUploadIsActivity(t *testing.T) {
	inBubble(t, func(conn net.Conn, in *bufio.Reader) {
		in.ReadString('\n')
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
		io.Copy(io.Discard, in)
	}, func(t *testing.T, c *h1.Conn) {
		r, w := io.Pipe()
		began := time.Now()
		go func() {
			for range 10 {
				time.Sleep(3 * time.Second)
				w.Write([]byte("x"))
			}
		}()
		resp, err := c.RoundTrip(&h1.Request{Method: "POST", Target: "/", Host: "x", ContentLength: -1, Body: r}, within(hour, hour, 5*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		_, err = resp.Body.Read(make([]byte, 1))
		wantTimeout(t, err, h1.Idle, began, 35*time.Second)
		resp.Body.Close()
	})
}

func TestTimeoutsOfATunnel(t *testing.T) {
	const switching = "HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"
	upgrade := func(t *testing.T, c *h1.Conn, d h1.Deadlines) h1.Tunnel {
		req := get()
		req.Upgrade = "echo"
		resp, err := c.RoundTrip(req, d)
		if err != nil {
			t.Fatal(err)
		}
		return resp.Body.(h1.Tunnel)
	}
	t.Run("read", func(t *testing.T) {
		inBubble(t, func(conn net.Conn, in *bufio.Reader) {
			http.ReadRequest(in)
			io.WriteString(conn, switching)
			io.Copy(io.Discard, in)
		}, func(t *testing.T, c *h1.Conn) {
			body := upgrade(t, c, within(time.Second, hour, 5*time.Second))
			began := time.Now()
			go func() { // what we write counts
				for range 3 {
					time.Sleep(4 * time.Second)
					body.Write([]byte("x"))
				}
			}()
			_, err := body.Read(make([]byte, 1))
			wantTimeout(t, err, h1.Idle, began, 17*time.Second)
		})
	})
	t.Run("write", func(t *testing.T) {
		inBubble(t, func(conn net.Conn, in *bufio.Reader) {
			http.ReadRequest(in)
			io.WriteString(conn, switching)
			for range 3 { // it never reads, but speaks
				time.Sleep(4 * time.Second)
				conn.Write([]byte("x"))
			}
			time.Sleep(hour)
		}, func(t *testing.T, c *h1.Conn) {
			body := upgrade(t, c, within(time.Second, hour, 5*time.Second))
			go io.Copy(io.Discard, body)
			began := time.Now()
			_, err := body.Write([]byte("x"))
			wantTimeout(t, err, h1.Idle, began, 17*time.Second)
		})
	})
	t.Run("total", func(t *testing.T) {
		inBubble(t, func(conn net.Conn, in *bufio.Reader) {
			http.ReadRequest(in)
			io.WriteString(conn, switching)
			for {
				time.Sleep(time.Second)
				if _, err := conn.Write([]byte("x")); err != nil {
					return
				}
			}
		}, func(t *testing.T, c *h1.Conn) {
			began := time.Now()
			body := upgrade(t, c, within(time.Second, 10*time.Second+time.Second/2, 5*time.Second))
			_, err := io.Copy(io.Discard, body)
			wantTimeout(t, err, h1.Total, began, 10*time.Second+time.Second/2)
		})
	})
}

func TestHangUpWaitsNoLongerThanItsGrace(t *testing.T) {
	inBubble(t, func(conn net.Conn, in *bufio.Reader) {
		go io.Copy(io.Discard, in)
		for { // it never stops talking
			time.Sleep(time.Millisecond)
			if _, err := io.WriteString(conn, "HTTP/1.1 100 Continue\r\n"); err != nil {
				return
			}
		}
	}, func(t *testing.T, c *h1.Conn) {
		began := time.Now()
		time.AfterFunc(100*time.Millisecond, c.Abort) // comes late, and must not shorten the grace
		if c.HangUp(500 * time.Millisecond) {
			t.Error("the peer is said to have hung up")
		}
		if took := time.Since(began); took != 500*time.Millisecond {
			t.Errorf("it took %v", took)
		}
	})
}
