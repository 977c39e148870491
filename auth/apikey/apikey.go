// Package apikey tells whose key a caller presents: the one admin key of a node, a file that only its owner can read,
// or a key of a namespace, of which the store has the hash.
package apikey

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"io/fs"
	"regexp"
	"strings"

	"lambent"
	"lambent/internal/keyfile"
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
	raw, err := keyfile.Read(path)
	var open *keyfile.ModeError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		text, sum := New()
		if err := keyfile.Write(path, []byte(text+"\n")); err != nil {
			return Key{}, false, lambent.Errorf(lambent.CodeInternal, "cannot write the admin key: %w", err)
		}
		return Key{sum}, true, nil
	case errors.As(err, &open):
		return Key{}, false, lambent.Errorf(lambent.CodeForbidden, "the admin key: %w", err).
			WithHint("chmod 600 %s, and consider the key known: remove the file to get a new one", path)
	case err != nil:
		return Key{}, false, lambent.Errorf(lambent.CodeInternal, "cannot read the admin key: %w", err)
	}
	text := strings.TrimSpace(string(raw))
	if !keyRE.MatchString(text) {
		return Key{}, false, lambent.Errorf(lambent.CodeInternal, "%s holds no admin key", path).
			WithHint("remove it to get a new one")
	}
	return Key{sha256.Sum256([]byte(text))}, false, nil
}

// New makes a random key of 256 bits. Whoever keeps it keeps its SHA-256 hash only; a key of that much chance needs no
// slower one.
func New() (text string, sum [sha256.Size]byte) {
	var raw [32]byte
	rand.Read(raw[:])
	text = prefix + base64.RawURLEncoding.EncodeToString(raw[:])
	return text, sha256.Sum256([]byte(text))
}
