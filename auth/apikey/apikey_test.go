package apikey

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lambent"
)

func text() string {
	text, _ := New()
	return text
}

func TestKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.key")
	key, created, err := LoadOrCreate(path)
	if err != nil || !created {
		t.Fatalf("first: created %v, %v", created, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	right := strings.TrimSpace(string(raw))
	if !keyRE.MatchString(right) || !key.Check(right) {
		t.Fatalf("the file's key %q is not the key", right)
	}
	again, created, err := LoadOrCreate(path)
	if err != nil || created || again != key {
		t.Fatalf("second: created %v, same %v, %v", created, again == key, err)
	}
	for _, wrong := range []string{"", "lk_", right + "x", right[:len(right)-1], strings.ToUpper(right), text()} {
		if key.Check(wrong) {
			t.Errorf("%q passes", wrong)
		}
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Fatalf("left behind: %v, %v", left, err)
	}
}

func TestRefused(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil { // WriteFile's mode is cut by the umask
			t.Fatal(err)
		}
		return path
	}
	for _, tt := range []struct{ path, want string }{
		{file("open", text(), 0o644), "chmod 600"},
		{file("group", text(), 0o640), "chmod 600"},
		{file("empty", "", 0o600), "holds no admin key"},
		{file("cut", text()[:20], 0o600), "holds no admin key"},
		{filepath.Join(dir, "none", "key"), "cannot write"},
		{dir, "others than its owner"},
	} {
		_, created, err := LoadOrCreate(tt.path)
		if err == nil || created || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: created %v, error %v, want %q", tt.path, created, err, tt.want)
		}
		if lambent.ErrorOf(err).Message == "" {
			t.Errorf("%s: no message", tt.path)
		}
	}
}
