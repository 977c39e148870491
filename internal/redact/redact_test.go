package redact

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestString(t *testing.T) {
	r := New([]string{"hunter22", "12345678", "45678abc", "short", "first line\r\nsecond line\nx", "aaaaaaaa"})
	for _, c := range []struct{ text, want string }{
		{"", ""},
		{"nothing here", "nothing here"},
		{"hunter22", "***"},
		{"a hunter22, b hunter22hunter22.", "a ***, b ***."},
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

// Long lines are known by their pieces, whatever their length.
func TestLongValues(t *testing.T) {
	var all strings.Builder
	for i := range 100 {
		fmt.Fprintf(&all, "%03d;", i)
	}
	for _, length := range []int{63, 64, 65, 71, 72, 127, 128, 129, 200, 400} {
		value := all.String()[:length]
		r := New([]string{value, "first line\n" + value})
		for text, want := range map[string]string{
			value: Mask, "a " + value + " b": "a *** b", "first line\n" + value: Mask, value + value: Mask,
			value[:60]: value[:60], value[1 : 64-1]: value[1 : 64-1],
		} {
			if got := r.String(text); got != want {
				t.Errorf("%d bytes: %q, want %q", length, got, want)
			}
		}
	}
}

// One large value leaves room for the others.
func TestManyParts(t *testing.T) {
	r := New([]string{lines(3 * maxParts), "hunter22"})
	if len(r.parts) != maxParts {
		t.Errorf("it keeps %d parts", len(r.parts))
	}
	if got := r.String("hunter22, line 0000000"); got != "***, ***" {
		t.Errorf("got %q", got)
	}
}

func lines(n int) string {
	var out strings.Builder
	for i := range n {
		fmt.Fprintf(&out, "line %07d\n", i)
	}
	return out.String()
}

// hostile are values, each with a line as long as they get that takes as long as possible.
func hostile() map[string]struct {
	values []string
	line   string
} {
	const size = 64 << 10
	var steps []string
	for n := shortest; n <= longest; n++ {
		steps = append(steps, strings.Repeat("a", n)+"b")
	}
	var heads []string
	for i := range 4 {
		heads = append(heads, strings.ReplaceAll(lines(7281), "line ", "line"+strings.Repeat("e", 48)+fmt.Sprint(i)))
	}
	return map[string]struct {
		values []string
		line   string
	}{
		"found everywhere":  {[]string{strings.Repeat("a", size/2)}, strings.Repeat("a", size)},
		"almost found":      {[]string{strings.Repeat("a", size-1) + "b"}, strings.Repeat("a", size)},
		"found and longer":  {steps, strings.Repeat(strings.Repeat("a", 63)+"c", size/64)},
		"many of one start": {heads, strings.Repeat("line"+strings.Repeat("e", 50), size/54)},
		"many lines":        {[]string{lines(5461), lines(5460)}, strings.Repeat("line 0000", size/9)},
	}
}

// spent is the processor's time until now: a busy machine does not add to it.
func spent(t *testing.T) time.Duration {
	t.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// The slowest takes a tenth of a second in all; looking for one value after the other takes it seven.
func TestHostileText(t *testing.T) {
	for name, c := range hostile() {
		began := spent(t)
		r := New(c.values)
		for range 10 {
			r.String(c.line)
		}
		if took := spent(t) - began; took > 5*time.Second {
			t.Errorf("%s: it took %s", name, took)
		}
	}
}

func BenchmarkHostile(b *testing.B) {
	for name, c := range hostile() {
		b.Run(name, func(b *testing.B) {
			r := New(c.values)
			for b.Loop() {
				r.String(c.line)
			}
		})
	}
}

func BenchmarkNew(b *testing.B) {
	var values []string
	for i := range 100 {
		values = append(values, strings.ReplaceAll(lines(5041), "line", fmt.Sprint(1000+i)))
	}
	for b.Loop() {
		New(values)
	}
}

func BenchmarkUsual(b *testing.B) {
	r := New([]string{lines(50), "hunter22hunter22"})
	line := strings.Repeat("a line of a log as it is usually written; ", 4)
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		r.String(line)
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
