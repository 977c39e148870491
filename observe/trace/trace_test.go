package trace

import (
	"net/http"
	"testing"
)

func TestContinue(t *testing.T) {
	const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for _, c := range []struct {
		name, in string
		kept     bool
	}{
		{"good", good, true},
		{"not sampled", good[:53] + "00", true},
		{"later version, longer", "cc" + good[2:] + "-what", true},
		{"later version, garbled", "cc" + good[2:] + ".what", false},
		{"version 00, longer", good + "-what", false},
		{"version ff", "ff" + good[2:], false},
		{"upper case", "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", false},
		{"zero trace", "00-00000000000000000000000000000000-b7ad6b7169203331-01", false},
		{"zero span", "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", false},
		{"short", good[:54], false},
		{"none", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := http.Header{"Tracestate": {"a=b"}}
			if c.in != "" {
				h.Set("Traceparent", c.in)
			}
			Continue(h)
			got := h.Get("Traceparent")
			if !valid(got) || len(got) != 55 {
				t.Fatalf("got %q", got)
			}
			if kept := c.in != "" && len(c.in) > 35 && got[3:35] == c.in[3:35]; kept != c.kept {
				t.Errorf("got %q of %q, trace kept: %v", got, c.in, kept)
			}
			if c.kept && (got[36:52] == c.in[36:52] || got[53:55] != c.in[53:55]) {
				t.Errorf("got %q of %q: want a new span and the same flags", got, c.in)
			}
			if (h.Get("Tracestate") != "") != c.kept {
				t.Errorf("tracestate %q", h.Get("Tracestate"))
			}
		})
	}
}
