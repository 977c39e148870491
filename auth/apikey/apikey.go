// Package apikey keeps the one admin key of a node: a file that only its owner can read.
package apikey

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"lambent"
)

const prefix = "lk_" // lets people and secret scanners recognise a key

var keyRE = regexp.MustCompile(`^lk_[A-Za-z0-9_-]{43}$`)

// Key checks what callers present. It holds the key's hash only, so it cannot print it.
type Key struct {
	sum [sha256.Size]byte
}

// Check reports whether text is the key, in a time that does not depend on where they differ.
func (k Key) Check(text string) bool {
	sum := sha256.Sum256([]byte(text))
	return subtle.ConstantTimeCompare(sum[:], k.sum[:]) == 1
}

// LoadOrCreate reads the key in the file at path, or makes a random one of 256 bits there when there is no
// file. It refuses a file that others than its owner can read, and one that holds no key.
func LoadOrCreate(path string) (key Key, created bool, err error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		text := newText()
		if err := write(path, text); err != nil {
			return Key{}, false, lambent.Errorf(lambent.CodeInternal, "cannot write the admin key: %w", err)
		}
		return Key{sha256.Sum256([]byte(text))}, true, nil
	case err != nil:
		return Key{}, false, lambent.Errorf(lambent.CodeInternal, "cannot read the admin key: %w", err)
	case info.Mode().Perm()&0o077 != 0:
		return Key{}, false, lambent.Errorf(lambent.CodeForbidden, "others than its owner can use the admin key in %s (mode %04o)", path, info.Mode().Perm()).
			WithHint("chmod 600 %s, and consider the key known: remove the file to get a new one", path)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return Key{}, false, lambent.Errorf(lambent.CodeInternal, "cannot read the admin key: %w", err)
	}
	text := strings.TrimSpace(string(raw))
	if !keyRE.MatchString(text) {
		return Key{}, false, lambent.Errorf(lambent.CodeInternal, "%s holds no admin key", path).
			WithHint("remove it to get a new one")
	}
	return Key{sha256.Sum256([]byte(text))}, false, nil
}

func newText() string {
	var raw [32]byte
	rand.Read(raw[:])
	return prefix + base64.RawURLEncoding.EncodeToString(raw[:])
}

// write makes the file appear whole or not at all, also when the machine stops.
func write(path, text string) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".key-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = fmt.Fprintln(f, text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
