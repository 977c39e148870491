package abi

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tetratelabs/wazero/api"

	"lambent"
	"lambent/internal/cgi"
)

// maxHead is how long the serialised header of a reactor's answer may be.
const maxHead = 64 << 10

// reactor is the module [Module]. Its numbers are i32 without a sign, pointers into the guest's memory and lengths in
// bytes, where nothing else is said. A wrong pointer, a bad answer and a client that has left end the call: there is no
// error that a guest could forget to look at.
//
//	request(buf, cap) -> len     writes the head of the request, when it is no longer than cap: method, target, host,
//	                             protocol and length of the body (decimal, empty when unknown), then name and value of
//	                             each field; all of them end in a NUL byte
//	read(buf, cap) -> len        reads the request's body as it comes; 0 is its end
//	respond(status, buf, len)    gives the head of the answer, once: name and value of each field, each ending in a NUL byte
//	write(buf, len)              writes a part of the answer's body; the first one answers 200 where there is no
//	                             head yet, with a Content-Type that it is found to be of
//	log(buf, len)                writes a line to the log
//	env(name, len, buf, cap) -> len  writes a variable of the environment, when it is no longer than cap; -1: not set
//	random(buf, len)             fills a buffer with cryptographically secure random bytes
//	time() -> i64                is the time in nanoseconds since 1970 began, UTC
var reactor = []function{
	{"request", "ii", "i", request},
	{"read", "ii", "i", read},
	{"respond", "iii", "", respond},
	{"write", "ii", "", write},
	{"log", "ii", "", logLine},
	{"env", "iiii", "i", env},
	{"random", "ii", "", random},
	{"time", "", "I", func(_ *Call, _ api.Memory, p []uint64) { p[0] = uint64(time.Now().UnixNano()) }},
}

// mustServe ends a call that has no request.
func (c *Call) mustServe(function string) {
	if c.initialising() {
		c.end(lambent.Errorf(lambent.CodeHandlerError, "the module called %s.%s in its initialisation, where there is no request", Module, function))
	}
}

func request(c *Call, m api.Memory, p []uint64) {
	c.mustServe("request")
	length := ""
	if c.Length >= 0 {
		length = strconv.FormatInt(c.Length, 10)
	}
	first := [...]string{c.Method, c.Target, c.Host, c.Proto, length}
	size := len(first) + 2*len(c.Header)
	for _, s := range first {
		size += c.plain(s)
	}
	for _, f := range c.Header {
		size += c.plain(f.Name) + c.plain(f.Value)
	}
	b := c.memory(m, "request", uint32(p[0]), uint32(p[1]))
	p[0] = uint64(uint32(size))
	if size > len(b) {
		return
	}
	put := func(s string) {
		n := copy(b, s)
		b[n] = 0
		b = b[n+1:]
	}
	for _, s := range first {
		put(s)
	}
	for _, f := range c.Header {
		put(f.Name)
		put(f.Value)
	}
}

// plain gives the length of s, which must not hold what ends it.
func (c *Call) plain(s string) int {
	if strings.IndexByte(s, 0) >= 0 {
		c.end(lambent.Errorf(lambent.CodeInvalidRequest, "the request's head holds a NUL byte"))
	}
	return len(s)
}

func read(c *Call, m api.Memory, p []uint64) {
	c.mustServe("read")
	p[0] = uint64(c.read(c.memory(m, "read", uint32(p[0]), uint32(p[1]))))
}

func respond(c *Call, m api.Memory, p []uint64) {
	c.mustServe("respond")
	if c.answer.known {
		c.end(bad("it called respond after its head was given").WithHint("respond once, and before the first write"))
	}
	status := int32(p[0])
	if status < 200 || status > 599 {
		c.end(bad("%d is no status from 200 to 599", status))
	}
	text := string(c.memory(m, "respond", uint32(p[1]), min(uint32(p[2]), maxHead+1)))
	if len(text) > maxHead {
		c.end(bad("its header is longer than %d KiB", maxHead>>10))
	}
	header := make([]Field, 0, strings.Count(text, "\x00")/2)
	for text != "" {
		name, rest, _ := strings.Cut(text, "\x00")
		value, rest, ok := strings.Cut(rest, "\x00")
		if !ok {
			c.end(bad("its header is not of names and values that each end in a NUL byte"))
		}
		f, err := checked(name, value)
		if err != nil {
			c.end(bad("%w", err))
		}
		header, text = append(header, f), rest
	}
	if err := c.respond(int(status), header); err != nil {
		c.end(bad("%w", err))
	}
}

func write(c *Call, m api.Memory, p []uint64) {
	c.mustServe("write")
	b := c.memory(m, "write", uint32(p[0]), uint32(p[1]))
	if !c.answer.known {
		_ = c.respond(http.StatusOK, cgi.Plain(b)) // fails for a Content-Length only
	}
	c.write(b)
}

func logLine(c *Call, m api.Memory, p []uint64) {
	b := c.memory(m, "log", uint32(p[0]), uint32(p[1]))
	c.log(2, b)
	if !bytes.HasSuffix(b, []byte("\n")) {
		c.log(2, []byte("\n"))
	}
}

func env(c *Call, m api.Memory, p []uint64) {
	name := c.memory(m, "env", uint32(p[0]), uint32(p[1]))
	b := c.memory(m, "env", uint32(p[2]), uint32(p[3]))
	unset := int32(-1)
	p[0] = uint64(uint32(unset))
	if c.initialising() {
		return
	}
	for _, v := range c.Env {
		if len(v) > len(name) && v[len(name)] == '=' && v[:len(name)] == string(name) {
			if value := v[len(name)+1:]; len(value) <= len(b) {
				copy(b, value)
			}
			p[0] = uint64(len(v) - len(name) - 1)
			return
		}
	}
}

func random(c *Call, m api.Memory, p []uint64) {
	c.random(c.memory(m, "random", uint32(p[0]), uint32(p[1])))
}
