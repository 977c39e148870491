package h1

import (
	"bytes"
	"io"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
)

// Response is what the peer answered.
type Response struct {
	Status int
	Header http.Header // without hop-by-hop fields
	// ContentLength is -1 when unknown. In an answer to HEAD it is what the peer said, or -1.
	ContentLength int64
	// Body must be closed. After 101 it is a [Tunnel]. Its Read gives io.EOF only at the end that the
	// peer had announced; where it announced none, when it hung up.
	Body io.ReadCloser
	// Trailer has the keys that were announced; it is complete once Body gave io.EOF.
	Trailer http.Header
}

// framing is how the end of a body is found.
type framing uint8

const (
	framedByLength framing = iota
	framedByChunks
	framedByClose
	switched // no body: the connection speaks another protocol now
)

// readHead reads up to the end of the final head and sets the Response.
func (x *exchange) readHead(req *Request) error {
	for range maxInterim + 1 {
		text, err := x.lines("HTTP/1.")
		if err != nil {
			return err
		}
		line, fields, _ := strings.Cut(text, "\r\n")
		minor, status, err := parseStatus(line)
		if err != nil {
			return err
		}
		h, err := parseFields(fields)
		if err != nil {
			return err
		}
		if status < 200 && status != http.StatusSwitchingProtocols {
			continue
		}
		x.Status, x.Header = status, h
		if err := x.frame(req, minor); err != nil {
			return err
		}
		x.answered.Store(true)
		if x.framing == switched || x.sender != nil {
			x.arm()
		}
		return nil
	}
	return &ProtocolError{"there are too many 1xx responses before the final one"}
}

var errStatus = &ProtocolError{"the status line is malformed"}

// parseStatus parses the status line (RFC 9112, section 4). The reason phrase has no meaning; many
// servers leave it out together with the space before it.
func parseStatus(line string) (minor byte, status int, err error) {
	if len(line) < len("HTTP/1.1 200") || line[:7] != "HTTP/1." || line[8] != ' ' || !isText(line) {
		return 0, 0, errStatus
	}
	if minor = line[7]; minor != '0' && minor != '1' {
		return 0, 0, errStatus
	}
	code, rest := line[9:12], line[12:]
	if !isDigits(code) || code[0] == '0' || rest != "" && rest[0] != ' ' {
		return 0, 0, errStatus
	}
	status, err = strconv.Atoi(code)
	return minor, status, err
}

func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// frame finds out how the body ends (RFC 9112, section 6.3) and takes the fields of this hop away.
func (x *exchange) frame(req *Request, minor byte) error {
	h := x.Header
	x.Body = x
	codings, lengths := h["Transfer-Encoding"], h["Content-Length"]
	connection, trailer, upgrade := h["Connection"], h["Trailer"], h["Upgrade"]
	x.keepAlive = minor == '1' && !listed(connection, "close")
	for key := range h {
		if HopByHop(key) || connection != nil && listed(connection, key) {
			delete(h, key)
		}
	}
	if x.Status == http.StatusSwitchingProtocols {
		return x.switchTo(req, minor, connection, upgrade)
	}
	x.ContentLength = -1
	switch {
	case codings != nil && lengths != nil:
		return &ProtocolError{"it has both a Transfer-Encoding and a Content-Length"}
	case codings != nil && (minor == '0' || len(codings) > 1 || !strings.EqualFold(codings[0], "chunked")):
		return &ProtocolError{"its Transfer-Encoding is not just chunked"}
	case lengths != nil:
		for _, v := range lengths {
			if v != lengths[0] || !isDigits(v) || len(v) > 18 {
				return &ProtocolError{"its Content-Length is malformed or not the only one"}
			}
		}
		h["Content-Length"] = lengths[:1]
		n, err := strconv.ParseInt(lengths[0], 10, 64)
		if err != nil {
			return err
		}
		x.ContentLength = n
	}
	switch {
	case req.Method == http.MethodHead || x.Status == http.StatusNotModified:
		x.end()
	case x.Status == http.StatusNoContent:
		x.ContentLength = 0
		x.end()
	case codings != nil:
		x.framing = framedByChunks
		x.budget = maxHead
		return x.announced(trailer)
	case x.ContentLength == 0:
		x.end()
	case x.ContentLength > 0:
		x.left = x.ContentLength
	default:
		x.framing = framedByClose
		x.keepAlive = false
	}
	return nil
}

// announced makes the trailer with the keys of a Trailer field.
func (x *exchange) announced(lists []string) error {
	x.Trailer = make(http.Header)
	for _, list := range lists {
		for name := range strings.SplitSeq(list, ",") {
			key := textproto.CanonicalMIMEHeaderKey(strings.Trim(name, " \t"))
			if NotInTrailer(key) || !isToken(key) {
				return &ProtocolError{"its Trailer field names a field that cannot be in one"}
			}
			x.Trailer[key] = nil
		}
	}
	return nil
}

// switchTo begins the tunnel after 101, if that is what was asked for.
func (x *exchange) switchTo(req *Request, minor byte, connection, upgrade []string) error {
	asked := false
	for name := range strings.SplitSeq(req.Upgrade, ",") {
		name = strings.Trim(name, " \t")
		asked = asked || name != "" && len(upgrade) == 1 && strings.EqualFold(name, upgrade[0])
	}
	if !asked || minor != '1' || !listed(connection, "upgrade") {
		return &ProtocolError{"it switches to a protocol that was not asked for"}
	}
	if !x.stop(true) {
		return &ProtocolError{"it switches protocols before it has read the request"}
	}
	x.sender = nil
	x.framing, x.keepAlive = switched, false
	x.Body = &tunnel{x}
	return nil
}

// end marks the response as complete.
func (x *exchange) end() { x.err = io.EOF }

// Read reads the body.
func (x *exchange) Read(p []byte) (int, error) {
	if x.err != nil || len(p) == 0 {
		return 0, x.err
	}
	var n int
	var err error
	switch x.framing {
	case framedByLength:
		n, err = x.readLength(p)
	case framedByChunks:
		n, err = x.readChunks(p)
	case framedByClose:
		if n, err = x.readData(p); err == io.EOF {
			x.end()
			return n, io.EOF
		}
	}
	x.c.received.Add(int64(n))
	switch {
	case x.err != nil: // the end, which the readers mark
		return n, x.err
	case err != nil:
		x.err = x.explain(err)
		return n, x.err
	}
	return n, nil
}

// Close ends the exchange. The sender of the request's body has finished with it when Close returns.
func (x *exchange) Close() error {
	if x.err == http.ErrBodyReadAfterClose {
		return nil
	}
	complete := x.err == io.EOF
	sent := x.stop(complete)
	x.c.whole = complete
	x.c.idle = complete && sent && x.keepAlive && x.c.in.len() == 0
	x.c.in.free()
	x.err = http.ErrBodyReadAfterClose
	return nil
}

func (x *exchange) readLength(p []byte) (int, error) {
	if int64(len(p)) > x.left {
		p = p[:x.left]
	}
	n, err := x.readData(p)
	if x.left -= int64(n); x.left == 0 {
		x.end()
	}
	return n, err
}

// readData reads what is buffered, or else from the socket; straight into p where p is large.
func (x *exchange) readData(p []byte) (int, error) {
	in := &x.c.in
	if in.len() == 0 {
		if len(p) >= pageSize {
			return x.read(p)
		}
		if err := x.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, in.bytes())
	in.take(n)
	return n, nil
}

// readChunks fills p as far as it can without waiting once it has something.
func (x *exchange) readChunks(p []byte) (n int, err error) {
	in := &x.c.in
	for n < len(p) {
		if x.left == 0 {
			if n > 0 && !x.lineBuffered() {
				break
			}
			if !x.lastChunk {
				if err := x.nextChunk(); err != nil {
					return n, err
				}
				continue
			}
			if n > 0 && !bytes.HasPrefix(in.bytes(), []byte("\r\n")) {
				break
			}
			return n, x.readTrailer()
		}
		if n > 0 && in.len() == 0 {
			break
		}
		m, err := x.readData(p[n:min(int64(len(p)), int64(n)+x.left)])
		n += m
		x.left -= int64(m)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// lineBuffered tells whether nextChunk would not have to wait: the line after a chunk's CRLF is there.
func (x *exchange) lineBuffered() bool {
	b := x.c.in.bytes()
	if x.inChunk {
		b = b[min(len(b), 2):]
	}
	return x.lastChunk || bytes.IndexByte(b, '\n') >= 0
}

// nextChunk reads the CRLF of a chunk that has ended and the size line of the next (RFC 9112, section 7.1).
func (x *exchange) nextChunk() error {
	const maxLine, maxExtensions = 256, 8 << 10
	if x.inChunk {
		line, err := x.line(2)
		if err != nil {
			return err
		}
		if len(line) > 0 {
			return &ProtocolError{"a chunk is longer than its size says"}
		}
		x.inChunk = false
	}
	line, err := x.line(maxLine)
	if err != nil {
		return err
	}
	digits := 0
	var size int64
	for ; digits < len(line) && digits < 16; digits++ {
		v := hexValue(line[digits])
		if v < 0 {
			break
		}
		size = size<<4 | int64(v)
	}
	extension := line[digits:]
	x.extension += len(extension)
	switch {
	case digits == 0 || digits > 15:
		return &ProtocolError{"the size of a chunk is malformed"}
	case len(extension) > 0 && (extension[0] != ';' || !isText(string(extension))):
		return &ProtocolError{"what follows the size of a chunk is no extension"}
	case x.extension > maxExtensions:
		return &ProtocolError{"the extensions of the chunks are too long"}
	}
	x.left = size
	x.inChunk = size > 0
	x.lastChunk = size == 0
	return nil
}

func hexValue(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// readTrailer reads the trailer and so ends the body.
func (x *exchange) readTrailer() error {
	text, err := x.lines("")
	if err != nil {
		return err
	}
	if text != "" {
		fields, err := parseFields(text)
		if err != nil {
			return err
		}
		for key, values := range fields {
			if !NotInTrailer(key) {
				x.Trailer[key] = values
			}
		}
	}
	x.end()
	return io.EOF
}

// fill reads more into the buffer.
func (x *exchange) fill() error {
	in := &x.c.in
	n, err := x.read(in.room())
	in.w += n
	x.heard = x.heard || n > 0
	return err
}

var errBareLF = &ProtocolError{"a line does not end in CRLF"}

// line gives one line without its CRLF, which must come within limit bytes. It is valid until the next fill.
func (x *exchange) line(limit int) ([]byte, error) {
	in := &x.c.in
	for {
		b := in.bytes()
		b = b[:min(len(b), limit)]
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			if i == 0 || b[i-1] != '\r' {
				return nil, errBareLF
			}
			in.take(i + 1)
			return b[:i-1], nil
		}
		if len(b) == limit {
			return nil, &ProtocolError{"the size line or the end of a chunk is too long"}
		}
		if err := x.fill(); err != nil {
			return nil, err
		}
	}
}

// lines gives the lines up to the empty one, which it takes too. The first must begin with prefix: garbage
// is found out by its first bytes, not by the time that it keeps us waiting.
func (x *exchange) lines(prefix string) (string, error) {
	in := &x.c.in
	start, scanned := 0, 0 // of the present line; of all
	for {
		b := in.bytes()
		if k := min(len(b), len(prefix)); string(b[:k]) != prefix[:k] {
			return "", &ProtocolError{"the answer does not begin with HTTP/1.1 or HTTP/1.0"}
		}
		for {
			i := bytes.IndexByte(b[scanned:], '\n')
			if i < 0 {
				scanned = len(b)
				break
			}
			end := scanned + i
			scanned = end + 1
			if end == start || b[end-1] != '\r' {
				return "", errBareLF
			}
			if scanned > x.budget {
				break
			}
			if end-1 == start {
				text := string(b[:start])
				in.take(scanned)
				x.budget -= scanned
				return text, nil
			}
			start = scanned
		}
		if len(b) >= x.budget {
			return "", &ProtocolError{"the head or trailer is longer than 64 KiB"}
		}
		if err := x.fill(); err != nil {
			return "", err
		}
	}
}
