package h1_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"lambent/internal/h1"
)

const payload = `{"a":1,"b":"hello","c":[1,2,3]}`

func answer(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	w.Header().Set("Content-Type", "application/json")
	io.WriteString(w, payload)
}

var benchHeader = http.Header{
	"Accept": {"*/*"}, "Accept-Encoding": {"gzip"}, "Content-Type": {"application/json"}, "User-Agent": {"bench/1"},
}

// reportCPU reports the process's CPU time per operation; call it before the loop and defer what it gives.
func reportCPU(b *testing.B) func() {
	cpu := func() int64 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return u.Utime.Nano() + u.Stime.Nano()
	}
	before := cpu()
	return func() { b.ReportMetric(float64(cpu()-before)/float64(b.N), "cpu-ns/op") }
}

// BenchmarkRoundTrip posts a small body to a net/http server on a unix socket and reads a small answer,
// with this client, with http.Transport, and with plain writes and reads of the same bytes, which is
// what the server and the socket cost by themselves. cpu-ns/op is of client and server together.
func BenchmarkRoundTrip(b *testing.B) {
	b.Run("h1", func(b *testing.B) {
		c := serve(b, answer)()
		p := make([]byte, 4096)
		b.ReportAllocs()
		defer reportCPU(b)()
		for b.Loop() {
			req := &h1.Request{Method: "POST", Target: "/", Host: "x", Header: benchHeader,
				ContentLength: int64(len(payload)), Body: io.NopCloser(bytes.NewReader([]byte(payload)))}
			now := time.Now()
			resp, err := c.RoundTrip(req, h1.Deadlines{FirstByte: now.Add(time.Minute), Total: now.Add(time.Hour), Idle: time.Minute})
			if err != nil {
				b.Fatal(err)
			}
			if n, err := resp.Body.Read(p); n != len(payload) || err != io.EOF {
				b.Fatal(n, err)
			}
			resp.Body.Close()
			if !c.Reusable() {
				b.Fatal("not reusable")
			}
		}
	})
	b.Run("net-http", func(b *testing.B) {
		l, _ := listen(b)
		path := l.Addr().String()
		s := &http.Server{Handler: http.HandlerFunc(answer)}
		go s.Serve(l)
		defer s.Close()
		tr := &http.Transport{DisableCompression: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}}
		defer tr.CloseIdleConnections()
		p := make([]byte, 4096)
		b.ReportAllocs()
		defer reportCPU(b)()
		for b.Loop() {
			req, err := http.NewRequest("POST", "http://x/", bytes.NewReader([]byte(payload)))
			if err != nil {
				b.Fatal(err)
			}
			req.Header = benchHeader
			resp, err := tr.RoundTrip(req)
			if err != nil {
				b.Fatal(err)
			}
			if n, err := io.ReadFull(resp.Body, p[:len(payload)]); err != nil {
				b.Fatal(n, err)
			}
			if _, err := resp.Body.Read(p); err != io.EOF {
				b.Fatal(err)
			}
			resp.Body.Close()
		}
	})
	b.Run("bytes", func(b *testing.B) {
		l, _ := listen(b)
		s := &http.Server{Handler: http.HandlerFunc(answer)}
		go s.Serve(l)
		defer s.Close()
		conn, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		wire := []byte("POST / HTTP/1.1\r\nHost: x\r\nAccept: */*\r\nAccept-Encoding: gzip\r\nContent-Type: application/json\r\nUser-Agent: bench/1\r\nContent-Length: 31\r\n\r\n" + payload)
		p := make([]byte, 4096)
		b.ReportAllocs()
		defer reportCPU(b)()
		for b.Loop() {
			if _, err := conn.Write(wire); err != nil {
				b.Fatal(err)
			}
			if n, err := conn.Read(p); err != nil || !bytes.HasSuffix(p[:n], []byte(payload)) {
				b.Fatal(n, err)
			}
		}
	})
}
