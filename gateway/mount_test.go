package gateway

import (
	"net/http/httptest"
	"testing"
)

func TestMount(t *testing.T) {
	for _, c := range []struct{ asked, target, want string }{
		{"/fn/hello/a?x=1", "/a?x=1", "/fn/hello"},
		{"/fn/hello", "/", "/fn/hello"},
		{"//evil.example/login", "/login", "/evil.example"},
		{"///evil.example/", "/", "/evil.example"},
		{"/a/b", "/other", ""},
		{"/", "/", ""},
		{"//", "/", ""},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RequestURI = c.asked
		if got := mount(r, c.target); got != c.want {
			t.Errorf("%s before %s: %q, want %q", c.asked, c.target, got, c.want)
		}
	}
}
