package apikey

import (
	"path/filepath"
	"testing"

	"lambent"
)

func TestRing(t *testing.T) {
	admin, _, err := LoadOrCreate(filepath.Join(t.TempDir(), "admin.key"))
	if err != nil {
		t.Fatal(err)
	}
	r := NewRing(admin)
	ci := lambent.Principal{Namespace: "team", Name: "ci", Role: lambent.RoleDeploy}
	first, firstSum := New()
	second, secondSum := New()
	want := func(text string, who lambent.Principal) {
		t.Helper()
		if got, ok := r.Authenticate(text); got != who || ok != (who != lambent.Principal{}) {
			t.Errorf("got %v, %v, want %v", got, ok, who)
		}
	}
	want(first, lambent.Principal{})
	want("", lambent.Principal{})
	r.Set(ci, firstSum)
	want(first, ci)
	want(first+"x", lambent.Principal{})
	want(string(firstSum[:]), lambent.Principal{})
	r.Set(ci, secondSum) // another key by the same name
	want(first, lambent.Principal{})
	want(second, ci)
	r.Delete("other", "ci")
	want(second, ci)
	r.Delete("team", "ci")
	r.Delete("team", "ci")
	want(second, lambent.Principal{})
}

func BenchmarkAuthenticate(b *testing.B) {
	r := NewRing(Key{})
	var last string
	for i := range 10_000 {
		text, sum := New()
		r.Set(lambent.Principal{Namespace: "team", Name: string(rune(i)), Role: lambent.RoleInvoke}, sum)
		last = text
	}
	for b.Loop() {
		if _, ok := r.Authenticate(last); !ok {
			b.Fatal("not found")
		}
	}
}
