//go:build wasip1

// Package lambent lets a Go program answer HTTP requests as a WebAssembly module of Lambent, without the time that
// Go's runtime takes to start: it has started when the request comes.
//
//	package main
//
//	import "example/lambent"
//
//	func init() {
//		lambent.Handle(func(w *lambent.ResponseWriter, r *lambent.Request) {
//			w.Header.Set("Content-Type", "text/plain")
//			w.WriteString("hello from " + r.Path)
//		})
//	}
//
//	func main() {}
//
// Build it with: GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -ldflags "-s -w" -o main.wasm
//
// The handler is called once for each request, in a fresh copy of the program as it was when all its packages had been
// initialised: nothing that one request leaves in memory is there for the next. So is the generator of math/rand, which
// gives the same numbers in every request: take crypto/rand, or rand.New(lambent.Random{}). A panic is the failure of
// the request, and in the log. main is never called.
package lambent

import (
	"io"
	"strconv"
	"strings"
	"unsafe"
)

//go:wasmimport lambent_v1 request
func hostRequest(buf unsafe.Pointer, size uint32) uint32

//go:wasmimport lambent_v1 read
func hostRead(buf unsafe.Pointer, size uint32) uint32

//go:wasmimport lambent_v1 respond
func hostRespond(status int32, fields unsafe.Pointer, size uint32)

//go:wasmimport lambent_v1 write
func hostWrite(buf unsafe.Pointer, size uint32)

//go:wasmimport lambent_v1 log
func hostLog(text unsafe.Pointer, size uint32)

//go:wasmimport lambent_v1 env
func hostEnv(name unsafe.Pointer, nameSize uint32, buf unsafe.Pointer, size uint32) int32

//go:wasmimport lambent_v1 random
func hostRandom(buf unsafe.Pointer, size uint32)

var handler func(w *ResponseWriter, r *Request)

// Handle sets what answers requests. Call it once, from an init function.
func Handle(h func(w *ResponseWriter, r *Request)) { handler = h }

//go:wasmexport handle
func handle() {
	if handler == nil {
		panic("lambent: nothing was given to lambent.Handle by an init function")
	}
	w := &ResponseWriter{}
	handler(w, readRequest())
	if !w.sent {
		w.WriteHeader(200)
	}
}

// Field is one line of a header.
type Field struct{ Name, Value string }

// Header holds the fields of a request or an answer. Names are the same in whatever case.
type Header []Field

// Get gives the first value of name, "" for none.
func (h Header) Get(name string) string {
	for _, f := range h {
		if strings.EqualFold(f.Name, name) {
			return f.Value
		}
	}
	return ""
}

// Add adds a field.
func (h *Header) Add(name, value string) { *h = append(*h, Field{name, value}) }

// Set sets name to that one value.
func (h *Header) Set(name, value string) {
	h.Del(name)
	h.Add(name, value)
}

// Del takes away all fields of that name.
func (h *Header) Del(name string) {
	kept := (*h)[:0]
	for _, f := range *h {
		if !strings.EqualFold(f.Name, name) {
			kept = append(kept, f)
		}
	}
	*h = kept
}

// Request is a request.
type Request struct {
	Method        string
	Target        string // path and query, as they were sent
	Path, Query   string // its parts, as they were sent
	Host, Proto   string
	Header        Header
	ContentLength int64 // -1 when it is unknown
	Body          io.Reader
}

// head is where a head is read to. One that is longer gets a place of its own.
var head [4 << 10]byte

func readRequest() *Request {
	text := head[:]
	size := int(hostRequest(unsafe.Pointer(&text[0]), uint32(len(text))))
	if size > len(text) {
		text = make([]byte, size)
		hostRequest(unsafe.Pointer(&text[0]), uint32(size))
	}
	rest := string(text[:size])
	next := func() (s string) {
		s, rest, _ = strings.Cut(rest, "\x00")
		return s
	}
	r := &Request{Method: next(), Target: next(), Host: next(), Proto: next(), Body: body{}}
	r.Path, r.Query, _ = strings.Cut(r.Target, "?")
	length, err := strconv.ParseInt(next(), 10, 64)
	if r.ContentLength = length; err != nil {
		r.ContentLength = -1
	}
	r.Header = make(Header, 0, strings.Count(rest, "\x00")/2)
	for rest != "" {
		r.Header = append(r.Header, Field{next(), next()})
	}
	return r
}

// body reads the request's body. It never fails: one that breaks off ends the call.
type body struct{}

// Read implements io.Reader.
func (body) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n := int(hostRead(unsafe.Pointer(&p[0]), uint32(len(p))))
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// WriteTo implements io.WriterTo, for io.Copy: its own buffer would be most of the memory that a request touches, all of
// which is put back afterwards.
func (b body) WriteTo(w io.Writer) (written int64, err error) {
	buf := make([]byte, 4<<10)
	for {
		n, end := b.Read(buf)
		if end != nil {
			return written, nil
		}
		n, err = w.Write(buf[:n])
		if written += int64(n); err != nil {
			return written, err
		}
	}
}

// ResponseWriter takes the answer. Writing never fails: a client that has left ends the call. The host gathers small
// pieces.
type ResponseWriter struct {
	Header Header // of the answer; it is sent by the first call of one of the methods
	sent   bool
}

// WriteHeader sends the head with a status from 200 to 599. It is not needed for status 200. A NUL byte in the header is a
// panic, as more fields could follow it.
func (w *ResponseWriter) WriteHeader(status int) {
	if w.sent {
		panic("lambent: WriteHeader was called after the head was sent")
	}
	w.sent = true
	var fields []byte
	for _, f := range w.Header {
		if strings.Contains(f.Name+f.Value, "\x00") {
			panic("lambent: there is a NUL byte in a field of the header")
		}
		fields = append(append(append(append(fields, f.Name...), 0), f.Value...), 0)
	}
	hostRespond(int32(status), unsafe.Pointer(unsafe.SliceData(fields)), uint32(len(fields)))
}

// Write implements io.Writer.
func (w *ResponseWriter) Write(p []byte) (int, error) {
	return w.write(unsafe.SliceData(p), len(p))
}

// WriteString implements io.StringWriter.
func (w *ResponseWriter) WriteString(s string) (int, error) {
	return w.write(unsafe.StringData(s), len(s))
}

func (w *ResponseWriter) write(p *byte, n int) (int, error) {
	if !w.sent && len(w.Header) == 0 {
		w.sent = n > 0 // the host finds a Content-Type
	}
	if !w.sent {
		w.WriteHeader(200)
	}
	if n > 0 {
		hostWrite(unsafe.Pointer(p), uint32(n))
	}
	return n, nil
}

// Log writes a line to the log.
func Log(text string) { hostLog(unsafe.Pointer(unsafe.StringData(text)), uint32(len(text))) }

// Getenv gives a variable of the function's environment, "" where it is not set. os.Getenv knows only what was there
// when the program was initialised, which is nothing.
func Getenv(name string) string {
	value := make([]byte, 256)
	for {
		size := int(hostEnv(unsafe.Pointer(unsafe.StringData(name)), uint32(len(name)), unsafe.Pointer(&value[0]), uint32(len(value))))
		if size <= len(value) {
			return string(value[:max(size, 0)])
		}
		value = make([]byte, size)
	}
}

// Random is a source for math/rand/v2 that every request has numbers of its own from, fit for cryptography.
type Random struct{}

// Uint64 implements rand.Source.
func (Random) Uint64() (n uint64) {
	hostRandom(unsafe.Pointer(&n), 8)
	return n
}
