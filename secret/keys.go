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

// openKeys reads the file at path, or makes one with one key where there is none.
func openKeys(path string) (*keys, error) {
	k := &keys{path: path}
	raw, err := keyfile.Read(path)
	var open *keyfile.ModeError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return k, k.replace([]key{newKey()})
	case errors.As(err, &open):
		return nil, lambent.Errorf(lambent.CodeForbidden, "the key of the secrets: %w", err).
			WithHint("chmod 600 %s, then consider it known: lambent secret rotate, and replace the secrets themselves where they are used", path)
	case err != nil:
		return nil, lambent.Errorf(lambent.CodeInternal, "cannot read the key of the secrets: %w", err)
	}
	if err := json.Unmarshal(raw, &k.list); err != nil || len(k.list) == 0 {
		return nil, damagedKeys(path)
	}
	for i := range k.list {
		if err := k.list[i].prepare(); err != nil {
			return nil, damagedKeys(path)
		}
	}
	return k, nil
}

func damagedKeys(path string) error {
	return lambent.Errorf(lambent.CodeInternal, "%s holds no key of the secrets", path).
		WithHint("put it back from a backup; without it no secret can be read, so if it is lost remove it and set all secrets anew")
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
