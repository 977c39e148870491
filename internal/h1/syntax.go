package h1

import (
	"net/http"
	"net/textproto"
	"strings"
)

// tokenChar tells the bytes of a token (RFC 9110, section 5.6.2).
var tokenChar = func() (table [256]bool) {
	for c := range table {
		alnum := c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		table[c] = alnum || c < 128 && strings.IndexByte("!#$%&'*+-.^_`|~", byte(c)) >= 0
	}
	return table
}()

func isToken(s string) bool {
	for i := range len(s) {
		if !tokenChar[s[i]] {
			return false
		}
	}
	return s != ""
}

// isText tells whether s may stand in a field value: no control character but the tab.
func isText(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// isVisible tells whether s has neither spaces nor control characters.
func isVisible(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c == 0x7f {
			return false
		}
	}
	return true
}

// HopByHop tells the fields that speak of one connection only, and those that frame a message. Both are
// the business of whoever writes to a connection, never of whom it forwards for.
func HopByHop(key string) bool {
	switch key {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization",
		"Te", "Trailer", "Transfer-Encoding", "Upgrade", "Http2-Settings":
		return true
	}
	return false
}

// NotInTrailer tells the fields that have no meaning behind a body, or a dangerous one.
func NotInTrailer(key string) bool {
	return HopByHop(key) || key == "Content-Length" || key == "Host" || key == "Expect"
}

// listed tells whether the comma-separated lists of values hold token.
func listed(values []string, token string) bool {
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.Trim(part, " \t"), token) {
				return true
			}
		}
	}
	return false
}

// parseFields reads lines that each end in CRLF. All names and values are parts of text.
func parseFields(text string) (http.Header, error) {
	n := strings.Count(text, "\n")
	if n > maxFields {
		return nil, &ProtocolError{"the head or trailer has more than 256 fields"}
	}
	h := make(http.Header, n)
	backing := make([]string, n)
	for text != "" {
		line, rest, _ := strings.Cut(text, "\r\n")
		text = rest
		if line[0] == ' ' || line[0] == '\t' {
			return nil, &ProtocolError{"a field is folded over several lines"}
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || !isToken(name) {
			return nil, &ProtocolError{"a line of the head or trailer is not of the form name: value"}
		}
		value = strings.Trim(value, " \t")
		if !isText(value) {
			return nil, &ProtocolError{"the value of " + name + " holds a control character"}
		}
		key := textproto.CanonicalMIMEHeaderKey(name)
		if had := h[key]; had != nil {
			h[key] = append(had, value)
			continue
		}
		backing[0] = value
		h[key], backing = backing[:1:1], backing[1:]
	}
	return h, nil
}
