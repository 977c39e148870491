package secret

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"lambent"
	"lambent/store"
	"lambent/store/memory"
)

func open(t *testing.T, dir string, s store.Store) *Vault {
	t.Helper()
	v, err := Open(t.Context(), Options{KeyFile: filepath.Join(dir, "secret.key"), Store: s})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func set(t *testing.T, v *Vault, namespace, name, value string) *lambent.Secret {
	t.Helper()
	s, err := v.Set(t.Context(), namespace, name, []byte(value))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func revisionWith(namespace string, secrets map[string]string) *lambent.Revision {
	return &lambent.Revision{Namespace: namespace, Function: "f", Settings: lambent.Settings{Secrets: secrets}}
}

func wantValue(t *testing.T, v *Vault, namespace, name, want string) {
	t.Helper()
	got, err := v.Values(t.Context(), revisionWith(namespace, map[string]string{"X": name}))
	if err != nil || got["X"] != want {
		t.Errorf("%s/%s is %q, %v, want %q", namespace, name, got["X"], err, want)
	}
}

func TestLife(t *testing.T) {
	dir, s := t.TempDir(), memory.New()
	v := open(t, dir, s)
	first := set(t, v, "team", "token", "value one")
	second := set(t, v, "team", "token", "value two")
	if first.Version != 1 || second.Version != 2 || !second.Created.Equal(first.Created) {
		t.Errorf("%+v, then %+v", first, second)
	}
	set(t, v, "other", "token", "not yours")
	set(t, v, "team", "a", strings.Repeat("x", lambent.MaxSecret))
	v = open(t, dir, s) // a restart
	wantValue(t, v, "team", "token", "value two")
	list, err := v.List(t.Context(), "team")
	if err != nil || len(list) != 2 || list[0].Name != "a" || list[1].Version != 2 {
		t.Errorf("%+v, %v", list, err)
	}
	if err := v.Delete(t.Context(), "team", "token"); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"get":    func() error { _, err := v.Get(t.Context(), "team", "token"); return err }(),
		"delete": v.Delete(t.Context(), "team", "token"),
	} {
		if !lambent.HasCode(err, lambent.CodeNotFound) {
			t.Errorf("%s after delete: %v", what, err)
		}
	}
	wantValue(t, v, "other", "token", "not yours")
}

func TestRefused(t *testing.T) {
	v := open(t, t.TempDir(), memory.New())
	for _, c := range []struct {
		namespace, name, value string
		code                   lambent.Code
	}{
		{"team", "token", "", lambent.CodeInvalidRequest},
		{"team", "Token", "x", lambent.CodeInvalidRequest},
		{"team", "a.b", "x", lambent.CodeInvalidRequest},
		{"te.am", "token", "x", lambent.CodeInvalidRequest},
		{"", "token", "x", lambent.CodeInvalidRequest},
		{"team", "token", strings.Repeat("x", lambent.MaxSecret+1), lambent.CodeBodyTooLarge},
	} {
		if _, err := v.Set(t.Context(), c.namespace, c.name, []byte(c.value)); !lambent.HasCode(err, c.code) {
			t.Errorf("%s/%s with %d bytes: %v", c.namespace, c.name, len(c.value), err)
		}
	}
	set(t, v, "team", "binary", "a\x00b\xff")
	got, err := v.Values(t.Context(), revisionWith("team", map[string]string{"/run/secrets/binary": "binary"}))
	if err != nil || got["/run/secrets/binary"] != "a\x00b\xff" {
		t.Errorf("as a file: %q, %v", got, err)
	}
	for target, name := range map[string]string{"X": "binary", "Y": "nothing", "/run/secrets/y": "nothing"} {
		if _, err := v.Values(t.Context(), revisionWith("team", map[string]string{target: name})); !lambent.HasCode(err, lambent.CodeStartFailed) {
			t.Errorf("%s=%s: %v", target, name, err)
		}
	}
}

// What the store holds is no use under another name, in another namespace, at another version, or after a delete.
func TestMovedCiphertext(t *testing.T) {
	s := memory.New()
	v := open(t, t.TempDir(), s)
	set(t, v, "team", "token", "the value")
	raw, err := s.Get(t.Context(), "secret.team.token")
	if err != nil {
		t.Fatal(err)
	}
	move := func(namespace, name string, change func(*record)) error {
		t.Helper()
		var r record
		if err := json.Unmarshal(raw.Value, &r); err != nil {
			t.Fatal(err)
		}
		r.Namespace, r.Name = namespace, name
		change(&r)
		moved, err := json.Marshal(&r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Put(t.Context(), keyOf(namespace, name), moved, store.Any); err != nil {
			t.Fatal(err)
		}
		values, err := v.Values(t.Context(), revisionWith(namespace, map[string]string{"X": name}))
		if err == nil {
			return fmt.Errorf("opened as %q", values["X"])
		}
		if strings.Contains(err.Error(), "the value") {
			return err
		}
		return nil
	}
	for what, err := range map[string]error{
		"another name":      move("team", "other", func(*record) {}),
		"another namespace": move("evil", "token", func(*record) {}),
		"another version":   move("team", "token", func(r *record) { r.Version++ }),
		"another life":      move("team", "token", func(r *record) { r.Created = r.Created.Add(1) }),
		"a changed byte":    move("team", "token", func(r *record) { r.Sealed.Data[14] ^= 1 }),
		"cut off":           move("team", "token", func(r *record) { r.Sealed.Data = r.Sealed.Data[:10] }),
		"nothing":           move("team", "token", func(r *record) { r.Sealed.Data = nil }),
		"an unknown key":    move("team", "token", func(r *record) { r.Sealed.Key = "0011223344556677" }),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := move("team", "token", func(*record) {}); err == nil {
		t.Error("even the right place does not open: the test proves nothing")
	}
	if _, err := s.Put(t.Context(), "secret.team.strange", raw.Value, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := v.List(t.Context(), "team"); !lambent.HasCode(err, lambent.CodeInternal) {
		t.Errorf("a record under a name that is not its own: %v", err)
	}
}

// What cannot be read may be set again, or deleted.
func TestDamagedRecord(t *testing.T) {
	s := memory.New()
	v := open(t, t.TempDir(), s)
	for name, mend := range map[string]func() error{
		"set": func() error {
			_, err := v.Set(t.Context(), "team", "set", []byte("again"))
			return err
		},
		"delete": func() error { return v.Delete(t.Context(), "team", "delete") },
	} {
		if _, err := s.Put(t.Context(), keyOf("team", name), []byte("oops"), 0); err != nil {
			t.Fatal(err)
		}
		if _, err := v.Rotate(t.Context()); !lambent.HasCode(err, lambent.CodeInternal) || !strings.Contains(err.Error(), "secret.team."+name) {
			t.Errorf("%s: a rotation gave %v", name, err)
		}
		if err := mend(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := v.Rotate(t.Context()); err != nil {
			t.Errorf("after %s: %v", name, err)
		}
	}
	wantValue(t, v, "team", "set", "again")
}

func TestNoncesDiffer(t *testing.T) {
	v := open(t, t.TempDir(), memory.New())
	seen := map[string]bool{}
	for range 1000 {
		data := v.keys.seal([]byte("x"), []byte("the value")).Data
		if len(data) != 12+9+16 || seen[string(data[:12])] {
			t.Fatalf("nonce %x with %d bytes", data[:12], len(data))
		}
		seen[string(data[:12])] = true
	}
}

func TestKeyFile(t *testing.T) {
	dir, s := t.TempDir(), memory.New()
	path := filepath.Join(dir, "secret.key")
	set(t, open(t, dir, s), "team", "token", "the value")
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	for _, mode := range []os.FileMode{0o644, 0o640, 0o604, 0o660, 0o601} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), Options{KeyFile: path, Store: s}); !lambent.HasCode(err, lambent.CodeForbidden) || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	right, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "{}", "null", "[null]", "oops", `[{"id":"00","key":"AA=="}]`, string(right[:len(right)/2])} {
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, 0o600)); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), Options{KeyFile: path, Store: s}); !lambent.HasCode(err, lambent.CodeInternal) {
			t.Errorf("%q: %v", text, err)
		}
	}
	// No key: it is not replaced in silence, and there is a way on.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), Options{KeyFile: path, Store: s})
	if !lambent.HasCode(err, lambent.CodeInternal) || !strings.Contains(err.Error(), "echo '[]' > "+path) {
		t.Errorf("without the key file: %v", err)
	}
	if err := os.WriteFile(path, []byte("[]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, dir, s)
	v := open(t, dir, s) // a restart
	if len(v.keys.all()) != 1 {
		t.Errorf("begun anew with %d keys", len(v.keys.all()))
	}
	_, err = v.Values(t.Context(), revisionWith("team", map[string]string{"X": "token"}))
	if !lambent.HasCode(err, lambent.CodeInternal) || !strings.Contains(err.Error(), "cannot be opened") {
		t.Errorf("without the key: %v", err)
	}
	if _, err := v.Rotate(t.Context()); err == nil {
		t.Error("a rotation forgot the key of a value that it cannot open")
	}
	set(t, v, "team", "token", "again")
	wantValue(t, v, "team", "token", "again")
	if _, err := v.Rotate(t.Context()); err != nil {
		t.Error(err)
	}
	wantValue(t, v, "team", "token", "again")
}

// broken is a store that fails after some writes, as a crash does.
type broken struct {
	store.Store
	left int
}

func (b *broken) Put(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	if b.left--; b.left < 0 {
		return 0, errors.New("the machine stopped")
	}
	return b.Store.Put(ctx, key, value, revision)
}

// A rotation that stops at any step leaves every value readable by a vault that opens then, and the next one ends it.
func TestRotationStopsAnywhere(t *testing.T) {
	const secrets = 5
	for writes := range secrets + 1 {
		dir, s := t.TempDir(), memory.New()
		v := open(t, dir, s)
		for i := range secrets {
			set(t, v, "team", fmt.Sprint("s", i), fmt.Sprint("value ", i))
		}
		before, err := os.ReadFile(filepath.Join(dir, "secret.key"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = open(t, dir, &broken{s, writes}).Rotate(t.Context())
		if (err == nil) != (writes >= secrets) {
			t.Fatalf("stopped after %d writes: %v", writes, err)
		}
		v = open(t, dir, s)
		for i := range secrets {
			wantValue(t, v, "team", fmt.Sprint("s", i), fmt.Sprint("value ", i))
		}
		if _, err := v.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
		v = open(t, dir, s)
		if n := len(v.keys.all()); n != 1 {
			t.Errorf("%d keys are left", n)
		}
		var old []key
		if err := json.Unmarshal(before, &old); err != nil {
			t.Fatal(err)
		}
		if after, err := os.ReadFile(filepath.Join(dir, "secret.key")); err != nil || bytes.Contains(after, []byte(old[0].ID)) {
			t.Errorf("the old key is still there: %v", err)
		}
		for i := range secrets {
			wantValue(t, v, "team", fmt.Sprint("s", i), fmt.Sprint("value ", i))
		}
	}
}

// A key file that cannot be written changes nothing.
func TestRotationWithoutADisk(t *testing.T) {
	dir := t.TempDir()
	v := open(t, dir, memory.New())
	set(t, v, "team", "token", "the value")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Rotate(t.Context()); err == nil {
		t.Error("it succeeded")
	}
	wantValue(t, v, "team", "token", "the value")
}

func TestSetWhileRotating(t *testing.T) {
	dir, s := t.TempDir(), memory.New()
	v := open(t, dir, s)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 25 {
				set(t, v, "team", fmt.Sprint("s", w), fmt.Sprint("value ", i))
			}
		})
	}
	for range 10 {
		if _, err := v.Rotate(t.Context()); err != nil && !lambent.HasCode(err, lambent.CodeConflict) {
			t.Error(err)
		}
	}
	wg.Wait()
	if _, err := v.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	v = open(t, dir, s)
	for w := range 4 {
		wantValue(t, v, "team", fmt.Sprint("s", w), "value 24")
	}
}

// late gives what it read only when the keys have been rotated.
type late struct {
	store.Store
	rotate func()
}

func (s *late) Get(ctx context.Context, key string) (store.Entry, error) {
	e, err := s.Store.Get(ctx, key)
	s.rotate()
	return e, err
}

// What was read is opened when its key is gone, some times in a row.
func TestValuesAfterRotation(t *testing.T) {
	for _, rotations := range []int{1, 2, 5} {
		s := &late{memory.New(), func() {}}
		v := open(t, t.TempDir(), s)
		set(t, v, "team", "token", "the value")
		left := rotations
		s.rotate = func() {
			if left--; left >= 0 {
				if n, err := v.Rotate(t.Context()); err != nil || n != 1 {
					t.Errorf("%d, %v", n, err)
				}
			}
		}
		wantValue(t, v, "team", "token", "the value")
	}
}

// An instance that starts while keys come and go has its secrets.
func TestValuesWhileRotating(t *testing.T) {
	v := open(t, t.TempDir(), memory.New())
	set(t, v, "team", "token", "the value")
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					wantValue(t, v, "team", "token", "the value")
				}
			}
		})
	}
	for range 50 {
		if n, err := v.Rotate(t.Context()); err != nil || n != 1 {
			t.Errorf("%d, %v", n, err)
		}
	}
	close(done)
	wg.Wait()
}

func TestNothingButTheKeyFileOpens(t *testing.T) {
	s := memory.New()
	v := open(t, t.TempDir(), s)
	const value = "correct horse battery staple"
	set(t, v, "team", "token", value)
	meta, err := v.Get(t.Context(), "team", "token")
	if err != nil {
		t.Fatal(err)
	}
	told, err := json.Marshal(meta)
	if err != nil || bytes.Contains(told, []byte("sealed")) {
		t.Errorf("%s, %v", told, err)
	}
	for e, err := range s.List(t.Context(), "") {
		if err != nil || bytes.Contains(e.Value, []byte("horse")) {
			t.Errorf("%s: %s, %v", e.Key, e.Value, err)
		}
	}
}
