// Package trace carries a W3C trace context (https://www.w3.org/TR/trace-context/, level 1) from a caller
// to a function.
package trace

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"strings"
)

const header = "Traceparent"

// Continue puts a traceparent for a new span into h: the caller's trace and flags if h holds a valid one,
// else a new sampled trace, without the tracestate of the invalid one, as the specification asks.
func Continue(h http.Header) {
	var random [24]byte
	rand.Read(random[:])
	next := []byte("00-00000000000000000000000000000000-0000000000000000-01")
	hex.Encode(next[36:52], random[:8])
	if old := h[header]; len(old) == 1 && valid(old[0]) {
		copy(next[3:35], old[0][3:35])
		copy(next[53:55], old[0][53:55])
	} else {
		delete(h, "Tracestate")
		hex.Encode(next[3:35], random[8:])
	}
	h[header] = []string{string(next)}
}

// valid follows section 3.2.2.3: later versions may be longer, after another dash; ff is none; ids are not
// all zero; digits are lower case.
func valid(s string) bool {
	if len(s) < 55 || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return false
	}
	version := s[:2]
	if version == "ff" || version == "00" && len(s) != 55 || len(s) > 55 && s[55] != '-' {
		return false
	}
	for _, part := range []string{version, s[3:35], s[36:52], s[53:55]} {
		if strings.Trim(part, "0123456789abcdef") != "" {
			return false
		}
	}
	return strings.Trim(s[3:35], "0") != "" && strings.Trim(s[36:52], "0") != ""
}
