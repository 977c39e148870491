package secret

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"lambent"
	"lambent/internal/keyfile"
)

const (
	keySize = 32 // AES-256
	idSize  = 8
)

// keys is the keys of a file, as JSON: the first seals, all open.
type keys struct {
	path string

	mu   sync.RWMutex // guards what is below
	list []key
}

type key struct {
	ID  string `json:"id"` // random, 16 hex digits: it tells keys apart
	Key []byte `json:"key"`

	aead cipher.AEAD
}

// readKeys reads the file at path. Where there is none the error wraps fs.ErrNotExist.
func readKeys(path string) (*keys, error) {
	k := &keys{path: path}
	raw, err := keyfile.Read(path)
	var open *keyfile.ModeError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, err
	case errors.As(err, &open):
		return nil, lambent.Errorf(lambent.CodeForbidden, "the key of the secrets: %w", err).
			WithHint("chmod 600 %s, then consider it known: lambent secret rotate, and replace the secrets themselves where they are used", path)
	case err != nil:
		return nil, lambent.Errorf(lambent.CodeInternal, "cannot read the key of the secrets: %w", err)
	}
	if err := json.Unmarshal(raw, &k.list); err != nil || k.list == nil {
		return nil, withoutKeys("%s holds no keys of secrets", path)
	}
	if len(k.list) == 0 { // somebody says that they are lost
		return makeKeys(path)
	}
	for i := range k.list {
		if err := k.list[i].prepare(); err != nil {
			return nil, withoutKeys("%s holds what is no key of secrets", path)
		}
	}
	return k, nil
}

// makeKeys writes a file with one new key.
func makeKeys(path string) (*keys, error) {
	k := &keys{path: path}
	return k, k.replace([]key{newKey()})
}

// withoutKeys is the error when what secrets are sealed with is not there; what has a place for the path of the file.
func withoutKeys(what, path string) error {
	return lambent.Errorf(lambent.CodeInternal, what, path).
		WithHint("put it back from a backup; if it is lost, begin anew: (umask 077; echo '[]' > %s), then set every secret again", path)
}

func newKey() key {
	raw := make([]byte, idSize+keySize)
	rand.Read(raw)
	k := key{ID: hex.EncodeToString(raw[:idSize]), Key: raw[idSize:]}
	if err := k.prepare(); err != nil {
		panic(err) // the sizes are right
	}
	return k
}

func (k *key) prepare() error {
	if id, err := hex.DecodeString(k.ID); err != nil || len(id) != idSize || len(k.Key) != keySize {
		return fmt.Errorf("key %q is malformed", k.ID)
	}
	block, err := aes.NewCipher(k.Key)
	if err == nil {
		k.aead, err = cipher.NewGCMWithRandomNonce(block)
	}
	return err
}

// replace writes the file, then takes the keys in it for ours.
func (k *keys) replace(list []key) error {
	raw, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return err
	}
	if err := keyfile.Write(k.path, append(raw, '\n')); err != nil {
		return lambent.Errorf(lambent.CodeInternal, "cannot write the key of the secrets: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.list = list
	return nil
}

func (k *keys) all() []key {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.list
}

// sealed is a value as it is stored.
type sealed struct {
	Key  string `json:"key"`  // id of the key
	Data []byte `json:"data"` // nonce, ciphertext and tag
}

// seal binds value to what it is: it opens as nothing else.
func (k *keys) seal(identity, value []byte) sealed {
	first := k.all()[0]
	return sealed{first.ID, first.aead.Seal(nil, nil, value, identity)}
}

var errKeyGone = errors.New("its key is not in the key file")

func (k *keys) open(identity []byte, s sealed) ([]byte, error) {
	for _, key := range k.all() {
		if key.ID == s.Key {
			return key.aead.Open(nil, nil, s.Data, identity)
		}
	}
	return nil, errKeyGone
}
