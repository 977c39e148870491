package lines

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTrim(t *testing.T) {
	long := strings.Repeat("x", 200<<10)
	for _, c := range []struct{ text, want string }{
		{"", ""},
		{"\n", "\n"},
		{"a\nb\n", "a\nb\n"},
		{"a\nb", "a\n"},
		{"no end", ""},
		{long, ""},
		{"a\n" + long, "a\n"},
		{long + "\nb", long + "\n"},
	} {
		path := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		size, err := Trim(file)
		file.Close()
		if err != nil || size != int64(len(c.want)) {
			t.Errorf("%.10q: got %d, %v", c.text, size, err)
		}
		if got, _ := os.ReadFile(path); string(got) != c.want {
			t.Errorf("%.10q: left %.10q", c.text, got)
		}
	}
}
