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
	var span [24]byte
	rand.Read(span[:])
	old := h[header]
	if len(old) == 1 && valid(old[0]) {
		h[header] = []string{"00-" + old[0][3:35] + "-" + hex.EncodeToString(span[:8]) + "-" + old[0][53:55]}
		return
	}
	delete(h, "Tracestate")
	h[header] = []string{"00-" + hex.EncodeToString(span[8:]) + "-" + hex.EncodeToString(span[:8]) + "-01"}
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
