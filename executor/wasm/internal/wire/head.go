package wire

import (
	"encoding/binary"
	"fmt"
	"net/http"
	"net/textproto"
	"strings"
	"time"

	"lambent"
	"lambent/internal/cgi"
)

// Field is one line of a header.
type Field = cgi.Field

// maxFields is how many fields a head may have.
const maxFields = 4096

// HeadError tells why a head cannot be sent. Nothing of it was.
type HeadError struct{ Text string }

// Error says what is wrong with the head.
func (e *HeadError) Error() string { return e.Text }

// Head is what a worker gets of a request beside its body.
type Head struct {
	Program                                         uint32
	Method, Target, Host, Proto, Remote, Invocation string
	Header                                          []Field
	Length                                          int64     // of the body; -1 when unknown
	Until                                           time.Time // when the response must be complete; zero: at any time
}

// The encoding: numbers are varints, strings have their length before them.

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// appendHead appends r's head. The program comes first, and the number of fields after the fields' bytes is known.
func (r *Request) appendHead(b []byte, program uint32) ([]byte, error) {
	from := len(b)
	b = binary.AppendUvarint(b, uint64(program))
	b = binary.AppendVarint(b, r.Length)
	deadline := int64(0)
	if !r.Deadline.IsZero() {
		deadline = toClock(r.Deadline)
	}
	b = binary.AppendVarint(b, deadline)
	for _, s := range [...]string{r.Method, r.Target, r.Host, r.Proto, r.Remote, r.Invocation} {
		b = appendString(b, s)
	}
	for _, f := range r.Extra {
		b = appendString(appendString(b, f.Name), f.Value)
	}
	count := len(r.Extra)
	for name, values := range r.Header {
		if r.Skip != nil && r.Skip(name) {
			continue
		}
		for _, v := range values {
			b = appendString(appendString(b, name), v)
		}
		count += len(values)
	}
	if count > maxFields || len(b)-from > MaxHead {
		return b, &HeadError{fmt.Sprintf("the request's head has %d fields and %d bytes; at most %d and %d can be handed over", count, len(b)-from, maxFields, MaxHead)}
	}
	return b, nil
}

// cursor reads what the append functions wrote. A failed one gives zero values.
type cursor struct {
	rest   string
	failed bool
}

func (c *cursor) uvarint() uint64 {
	var v uint64
	for i := range min(len(c.rest), binary.MaxVarintLen64) {
		b := c.rest[i]
		v |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			c.rest = c.rest[i+1:]
			return v
		}
	}
	c.fail()
	return 0
}

func (c *cursor) varint() int64 {
	v := c.uvarint()
	return int64(v>>1) ^ -int64(v&1)
}

func (c *cursor) string() string {
	n := c.uvarint()
	if n > uint64(len(c.rest)) {
		c.fail()
		return ""
	}
	s := c.rest[:n]
	c.rest = c.rest[n:]
	return s
}

// text is a string for people.
func (c *cursor) text() string { return strings.ToValidUTF8(c.string(), "\uFFFD") }

func (c *cursor) fail() { c.rest, c.failed = "", true }

// decode fills h from what appendHead wrote. Its strings share one copy of b.
func (h *Head) decode(b []byte) error {
	c := cursor{rest: string(b)}
	program := c.uvarint()
	length, deadline := c.varint(), c.varint()
	*h = Head{Program: uint32(program), Length: length, Header: h.Header[:0]}
	if deadline != 0 {
		h.Until = fromClock(deadline)
	}
	for _, s := range [...]*string{&h.Method, &h.Target, &h.Host, &h.Proto, &h.Remote, &h.Invocation} {
		*s = c.string()
	}
	for len(c.rest) > 0 && len(h.Header) < maxFields {
		h.Header = append(h.Header, Field{Name: c.string(), Value: c.string()})
	}
	if c.failed || len(c.rest) > 0 || program > 1<<32-1 || length < -1 {
		return violation("the head of a request is malformed")
	}
	return nil
}

// appendResponse appends the head of a response.
func appendResponse(b []byte, status int, header []Field, length int64) ([]byte, error) {
	from := len(b)
	b = binary.AppendUvarint(b, uint64(status))
	b = binary.AppendVarint(b, length)
	b = binary.AppendUvarint(b, uint64(len(header)))
	for _, f := range header {
		b = appendString(appendString(b, f.Name), f.Value)
	}
	if len(header) > maxFields || len(b)-from > MaxHead {
		return b, &HeadError{fmt.Sprintf("the head of the answer has %d fields and %d bytes; at most %d and %d will do", len(header), len(b)-from, maxFields, MaxHead)}
	}
	return b, nil
}

// decode fills x from what appendResponse wrote.
func (x *Exchange) decode(b []byte) error {
	c := cursor{rest: string(b)}
	status, length, count := c.uvarint(), c.varint(), c.uvarint()
	if c.failed || status < 200 || status > 999 || length < -1 || count > maxFields || count > uint64(len(c.rest)) {
		return violation("the head of a response is malformed")
	}
	x.Status, x.Length, x.Header = int(status), length, make(http.Header, count)
	values := make([]string, count)
	for i := range values {
		name, value := c.string(), c.string()
		if !isField(name, value) {
			return violation("a response has the field %.64q: %.64q", name, value)
		}
		values[i] = value
		name = textproto.CanonicalMIMEHeaderKey(name)
		if before := x.Header[name]; before != nil {
			x.Header[name] = append(before, value)
		} else {
			x.Header[name] = values[i : i+1 : i+1]
		}
	}
	if c.failed || len(c.rest) > 0 {
		return violation("the head of a response is malformed")
	}
	return nil
}

// token is the characters of a field's name, RFC 9110, section 5.6.2.
var token = func() (t [256]bool) {
	for c := range t {
		t[c] = c > ' ' && c < 0x7f && !strings.ContainsRune(`"(),/:;<=>?@[\]{}`, rune(c))
	}
	return t
}()

func isField(name, value string) bool {
	for i := range len(name) {
		if !token[name[i]] {
			return false
		}
	}
	for i := range len(value) {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return name != ""
}

// Usage is what a request has used.
type Usage struct {
	CPU    time.Duration
	Memory int64 // bytes, the peak of its linear memory
}

// maxText is the size of a message or a hint, maxTrace of a trace.
const (
	maxText  = 4 << 10
	maxTrace = 32 << 10
)

func appendResult(b []byte, u Usage, e *lambent.Error) []byte {
	b = binary.AppendUvarint(b, uint64(max(u.CPU, 0)))
	b = binary.AppendUvarint(b, uint64(max(u.Memory, 0)))
	if e == nil {
		return b
	}
	b = appendString(b, string(e.Code))
	b = appendString(b, e.Message[:min(len(e.Message), maxText)])
	b = appendString(b, e.Hint[:min(len(e.Hint), maxText)])
	return appendString(b, e.Trace[:min(len(e.Trace), maxTrace)])
}

// verdicts are the errors that a worker may report: what a guest can do, and that the worker itself failed.
var verdicts = map[lambent.Code]bool{
	lambent.CodeHandlerError: true, lambent.CodeBadResponse: true, lambent.CodeMemoryExceeded: true,
	lambent.CodeCpuExceeded: true, lambent.CodeOutputTooLarge: true, lambent.CodeTotalTimeout: true,
	lambent.CodeClientClosed: true, lambent.CodeInvalidRequest: true, lambent.CodeSandboxFailed: true, lambent.CodeInternal: true,
}

func decodeResult(b []byte) (u Usage, e *lambent.Error, err error) {
	c := cursor{rest: string(b)}
	u.CPU, u.Memory = time.Duration(c.uvarint()), int64(c.uvarint())
	if !c.failed && len(c.rest) > 0 {
		code := lambent.Code(c.string())
		if !verdicts[code] {
			return u, nil, violation("a request ended with the error %.64q", code)
		}
		e = lambent.Errorf(code, "%s", c.text())
		e.Hint, e.Trace = c.text(), c.text()
	}
	if c.failed || len(c.rest) > 0 || u.CPU < 0 || u.Memory < 0 {
		return u, nil, violation("the result of a request is malformed")
	}
	return u, e, nil
}
