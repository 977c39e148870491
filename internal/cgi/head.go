package cgi

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
)

// maxHead is how long the header of a program's answer may be.
const maxHead = 64 << 10

// Head takes the head of the answer from what a program writes (RFC 3875, section 6). What does not begin with a
// header is a body of its own.
type Head struct {
	Status int     // from 200 to 599
	Header []Field // canonical names; nothing of the connection, nothing that is the host's to say

	held []byte // the beginning, as long as it may be or is a header
}

// Write takes more of the output, until it gives ok: then the head is there, and body is what follows it of all that
// was written. What it needs of p to that end it keeps, as a copy.
func (h *Head) Write(p []byte) (body []byte, ok bool, err error) {
	if len(h.held) > 0 {
		h.held = append(h.held, p...)
		p = h.held
	}
	header, sure := beginsWithField(p)
	if sure {
		if !header {
			return h.plain(p), true, nil
		}
		if head, body, ok := cutHead(p[:min(len(p), maxHead)]); ok {
			return p[body:], true, h.parse(head)
		}
		if len(p) >= maxHead {
			return nil, false, fmt.Errorf("its header has no end within %d KiB", maxHead>>10)
		}
	}
	if len(h.held) == 0 {
		h.held = append(h.held, p...)
	}
	return nil, false, nil
}

// End says that the output is at its end, where Write has not given ok. What was held back is the body.
func (h *Head) End() (body []byte, err error) {
	if header, _ := beginsWithField(h.held); header {
		return nil, errors.New("its header does not end in an empty line")
	}
	return h.plain(h.held), nil
}

func (h *Head) plain(body []byte) []byte {
	h.Status, h.Header = http.StatusOK, Plain(body)
	return body
}

// Plain is the header of an answer that begins with body and has none of its own. Text is never taken for HTML: what a
// program echoes of its input must not become somebody's script.
func Plain(body []byte) []Field {
	kind := http.DetectContentType(body)
	if strings.HasPrefix(kind, "text/") {
		kind = "text/plain; charset=utf-8"
	}
	return []Field{{"Content-Type", kind}}
}

func (h *Head) parse(head []byte) error {
	location := false
	for text := string(head); text != ""; {
		var line string
		line, text, _ = strings.Cut(text, "\n")
		name, value, ok := strings.Cut(strings.TrimSuffix(line, "\r"), ":")
		if !ok {
			return fmt.Errorf("%.80q in its header is not of the form name: value", line)
		}
		f := Field{textproto.CanonicalMIMEHeaderKey(name), strings.Trim(value, " \t")}
		if err := f.Check(); err != nil {
			return err
		}
		switch {
		case f.Name == "Status":
			code, _, _ := strings.Cut(f.Value, " ")
			status, err := strconv.Atoi(code)
			if err != nil || status < 200 || status > 599 {
				return fmt.Errorf("%q is no status from 200 to 599", f.Value)
			}
			h.Status = status
		case f.Name == "Content-Type":
			h.set(f)
		case !OfConnection(f.Name) && !strings.HasPrefix(f.Name, "Lambent-"):
			location = location || f.Name == "Location"
			h.Header = append(h.Header, f)
		}
	}
	switch {
	case h.Status != 0:
	case location:
		h.Status = http.StatusFound
	default:
		h.Status = http.StatusOK
	}
	return nil
}

// set lets the last of several fields count.
func (h *Head) set(f Field) {
	for i := range h.Header {
		if h.Header[i].Name == f.Name {
			h.Header[i] = f
			return
		}
	}
	h.Header = append(h.Header, f)
}

// fields are those of which a header has at least one, and which it must begin with to be told from text.
var fields = []string{"Content-Type:", "Status:", "Location:"}

// beginsWithField tells whether b begins with a header, and whether that can be told yet.
func beginsWithField(b []byte) (header, sure bool) {
	sure = true
	for _, f := range fields {
		k := min(len(b), len(f))
		if strings.EqualFold(string(b[:k]), f[:k]) {
			if k == len(f) {
				return true, true
			}
			sure = false
		}
	}
	return false, sure
}

// cutHead finds the head, which ends in an empty line, and where the body begins behind that.
func cutHead(b []byte) (head []byte, body int, ok bool) {
	for at := 0; ; {
		end := bytes.IndexByte(b[at:], '\n')
		if end < 0 {
			return nil, 0, false
		}
		if line := b[at : at+end]; len(line) == 0 || string(line) == "\r" {
			return b[:at], at + end + 1, true
		}
		at += end + 1
	}
}
