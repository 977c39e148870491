package lambent

import (
	"net/http/httptest"
	"testing"
	"time"
)

func TestRetryAfter(t *testing.T) {
	for _, c := range []struct {
		code  Code
		after time.Duration
		want  string
	}{
		{CodeQueueFull, 0, "1"},
		{CodeCircuitOpen, 0, ""},
		{CodeCircuitOpen, time.Millisecond, "1"},
		{CodeCircuitOpen, time.Second, "1"},
		{CodeCircuitOpen, 61500 * time.Millisecond, "62"},
	} {
		w := httptest.NewRecorder()
		e := Errorf(c.code, "no")
		e.RetryAfter = c.after
		WriteError(w, e)
		if got := w.Header().Get("Retry-After"); got != c.want || w.Code != e.Status() {
			t.Errorf("%s after %s: status %d, Retry-After %q, want %q", c.code, c.after, w.Code, got, c.want)
		}
	}
}
