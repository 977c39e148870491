package redact

import (
	"strings"
	"testing"
	"time"
)

func TestString(t *testing.T) {
	r := New([]string{"hunter22", "12345678", "45678abc", "short", "first line\r\nsecond line\nx", "aaaaaaaa"})
	for _, c := range []struct{ text, want string }{
		{"", ""},
		{"nothing here", "nothing here"},
		{"hunter22", "***"},
		{"a hunter22, b hunter22hunter22.", "a ***, b ******."},
		{"short", "short"},
		{"12345678abc", "***"},
		{"x12345678abc-12345678y", "x***-***y"},
		{"the second line of it", "the *** of it"},
		{"first line\r\nsecond line\nx!", "***!"},
		{"hunter2", "hunter2"},
		{strings.Repeat("a", 20) + "b", "***b"},
	} {
		if got := r.String(c.text); got != c.want {
			t.Errorf("%q: %q, want %q", c.text, got, c.want)
		}
	}
	if New([]string{"", "1234567"}) != nil {
		t.Error("values that are too short make a Redactor")
	}
	if got := New(nil).String("text"); got != "text" {
		t.Errorf("nil: %q", got)
	}
}

// A line as long as they get, made of what looks like the value throughout.
func TestHostileText(t *testing.T) {
	began := time.Now()
	r := New([]string{strings.Repeat("a", 100)})
	if got := r.String(strings.Repeat("a", 64<<10)); got != Mask {
		t.Errorf("%d bytes left", len(got))
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

func FuzzString(f *testing.F) {
	f.Add("password", "12345678", "a password12345678 b")
	f.Fuzz(func(t *testing.T, one, two, text string) {
		out := New([]string{one, two}).String(text)
		for _, value := range []string{one, two} {
			if len(value) >= shortest && !strings.Contains(value, "*") && strings.Contains(out, value) {
				t.Errorf("%q is left in %q", value, out)
			}
		}
	})
}

func BenchmarkNoSecrets(b *testing.B) {
	r := New(nil)
	for b.Loop() {
		r.String("a line of a log as it is usually written")
	}
}
