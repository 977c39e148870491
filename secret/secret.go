// Package secret keeps sealed values: what functions need and nobody else may see.
//
// Values lie in the resource store under "secret.NAMESPACE.NAME", encrypted with AES-256-GCM by a key of a file that
// only the node's user can read. Invariants, proved in secret_test.go:
//   - Nothing that the store holds, or once held, gives a value to who lacks the file.
//   - A ciphertext opens as the secret that it was made for only, in its namespace and at its version.
//   - A rotation may stop at any step and be done again: every value can be opened at each of them.
//   - Nothing here gives a value but Values, which is for starting an instance.
package secret

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"lambent"
	"lambent/store"
)

// Options say where things are. Both are needed.
type Options struct {
	KeyFile string // made when missing and the store has no secrets
	Store   store.Store
}

// Vault keeps secrets.
type Vault struct {
	store store.Store
	keys  *keys

	rotating sync.Mutex
	sealing  sync.RWMutex // held for reading from seal to put, for writing while the first key changes
}

// Open reads the key file, or makes it where nothing needs one that is gone. It is forbidden when others than its
// owner can use the file.
func Open(ctx context.Context, o Options) (*Vault, error) {
	k, err := readKeys(o.KeyFile)
	if errors.Is(err, fs.ErrNotExist) {
		for _, err := range o.Store.List(ctx, prefix) {
			if err != nil {
				return nil, err
			}
			return nil, withoutKeys("there are secrets, but no %s", o.KeyFile)
		}
		k, err = makeKeys(o.KeyFile)
	}
	if err != nil {
		return nil, err
	}
	return &Vault{store: o.Store, keys: k}, nil
}

// Frozen gives a vault of what v holds now, sealed as it is, in another store: for Values when v's is closed.
func (v *Vault) Frozen(ctx context.Context, into store.Store) (*Vault, error) {
	for e, err := range v.store.List(ctx, prefix) {
		if err == nil {
			_, err = into.Put(ctx, e.Key, e.Value, store.Any)
		}
		if err != nil {
			return nil, err
		}
	}
	return &Vault{store: into, keys: v.keys}, nil
}

const prefix = "secret."

func keyOf(namespace, name string) string { return prefix + namespace + "." + name }

// record is a secret as it is stored.
type record struct {
	lambent.Secret
	Sealed sealed `json:"sealed"`

	revision uint64
}

// identity is what a value is bound to. Created tells a secret from one of the same name that was deleted before.
func (r *record) identity() []byte {
	out := []byte("lambent secret 1\x00" + r.Namespace + "\x00" + r.Name + "\x00")
	out = binary.BigEndian.AppendUint64(out, r.Version)
	return binary.BigEndian.AppendUint64(out, uint64(r.Created.UnixNano()))
}

func decode(e store.Entry) (*record, error) {
	r := &record{revision: e.Revision}
	if err := json.Unmarshal(e.Value, r); err != nil || keyOf(r.Namespace, r.Name) != e.Key {
		return nil, lambent.Errorf(lambent.CodeInternal, "the stored record %s is damaged", e.Key).WithHint("set the secret again or delete it")
	}
	return r, nil
}

func check(namespace, name string) error {
	return errors.Join(lambent.CheckName("namespace", namespace), lambent.CheckName("secret", name))
}

func unknown(namespace, name string) *lambent.Error {
	return lambent.Errorf(lambent.CodeNotFound, "there is no secret %s in namespace %s", name, namespace).
		WithHint("make it with: lambent secret set %s", name)
}

// entry reads what is stored of a secret; its revision is 0 when there is none.
func (v *Vault) entry(ctx context.Context, namespace, name string) (store.Entry, error) {
	if err := check(namespace, name); err != nil {
		return store.Entry{}, err
	}
	e, err := v.store.Get(ctx, keyOf(namespace, name))
	if errors.Is(err, store.ErrNotFound) {
		return store.Entry{}, nil
	}
	return e, err
}

// load reads a secret; the error is not_found when there is none.
func (v *Vault) load(ctx context.Context, namespace, name string) (*record, error) {
	e, err := v.entry(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	if e.Revision == 0 {
		return nil, unknown(namespace, name)
	}
	return decode(e)
}

// maxRounds bounds how often a read or a write is tried again, and a rotation looks again, because others write at the
// same time.
const maxRounds = 20

// Set gives a secret its value, and makes the secret where there is none: then its version is 1. When it returned
// nil, every later Values gives the new value.
func (v *Vault) Set(ctx context.Context, namespace, name string, value []byte) (*lambent.Secret, error) {
	switch {
	case len(value) == 0:
		return nil, lambent.Errorf(lambent.CodeInvalidRequest, "the secret %s is empty", name)
	case len(value) > lambent.MaxSecret:
		return nil, lambent.Errorf(lambent.CodeBodyTooLarge, "the secret %s is over the limit of %d bytes", name, lambent.MaxSecret)
	}
	for range maxRounds {
		now := time.Now().UTC()
		e, err := v.entry(ctx, namespace, name)
		if err != nil {
			return nil, err
		}
		r, err := decode(e)
		if err != nil { // there is none, or one that is damaged, whose place a new one takes
			r = &record{Secret: lambent.Secret{Namespace: namespace, Name: name, Created: now}, revision: e.Revision}
		}
		r.Version++
		r.Updated = now.Truncate(time.Millisecond)
		if err := v.put(ctx, r, value); !errors.Is(err, store.ErrConflict) {
			return &r.Secret, err
		}
	}
	return nil, store.ErrConflict
}

// put seals and stores r with value, if r is still what the store has.
func (v *Vault) put(ctx context.Context, r *record, value []byte) error {
	v.sealing.RLock()
	defer v.sealing.RUnlock()
	r.Sealed = v.keys.seal(r.identity(), value)
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = v.store.Put(ctx, keyOf(r.Namespace, r.Name), raw, r.revision)
	return err
}

// Get tells of a secret; the error is not_found when there is none.
func (v *Vault) Get(ctx context.Context, namespace, name string) (*lambent.Secret, error) {
	r, err := v.load(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	return &r.Secret, nil
}

// List tells of the secrets of a namespace, by name.
func (v *Vault) List(ctx context.Context, namespace string) ([]*lambent.Secret, error) {
	if err := lambent.CheckName("namespace", namespace); err != nil {
		return nil, err
	}
	out := []*lambent.Secret{}
	for e, err := range v.store.List(ctx, prefix+namespace+".") {
		if err != nil {
			return nil, err
		}
		r, err := decode(e)
		if err != nil {
			return nil, err
		}
		out = append(out, &r.Secret)
	}
	slices.SortFunc(out, func(a, b *lambent.Secret) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Delete removes a secret; the error is not_found when there is none.
func (v *Vault) Delete(ctx context.Context, namespace, name string) error {
	e, err := v.entry(ctx, namespace, name) // not read: one that is damaged may go, too
	if err != nil {
		return err
	}
	if e.Revision == 0 {
		return unknown(namespace, name)
	}
	_, err = v.store.Delete(ctx, e.Key, e.Revision)
	return err
}

func (v *Vault) value(ctx context.Context, namespace, name string) ([]byte, error) {
	r, err := v.load(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	value, err := v.keys.open(r.identity(), r.Sealed)
	if err != nil {
		return nil, lambent.Errorf(lambent.CodeInternal, "the secret %s of namespace %s cannot be opened: %w", name, namespace, err).
			WithHint("put secret.key back from a backup, or set the secret again")
	}
	return value, nil
}

// Values gives the values that a revision's settings name, by their targets, for one of its instances to be started
// with. A secret that is not there, or cannot be what it is to be, is start_failed.
func (v *Vault) Values(ctx context.Context, rev *lambent.Revision) (map[string]string, error) {
	out := map[string]string{}
	for _, target := range slices.Sorted(maps.Keys(rev.Settings.Secrets)) {
		name := rev.Settings.Secrets[target]
		value, err := v.value(ctx, rev.Namespace, name)
		for round := 1; errors.Is(err, errKeyGone) && round < maxRounds; round++ { // a rotation has sealed it anew since it was read
			value, err = v.value(ctx, rev.Namespace, name)
		}
		switch {
		case lambent.HasCode(err, lambent.CodeNotFound):
			e := lambent.ErrorOf(err)
			return nil, lambent.Errorf(lambent.CodeStartFailed, "%s: %s", target, e.Message).WithHint("%s", e.Hint)
		case err != nil:
			return nil, err
		}
		if !strings.HasPrefix(target, lambent.SecretsDir+"/") && slices.Contains(value, 0) {
			return nil, lambent.Errorf(lambent.CodeStartFailed, "the secret %s holds a NUL byte, which no environment variable can", name).
				WithHint("give it as a file: in secrets, %s/%s instead of %s", lambent.SecretsDir, name, target)
		}
		out[target] = string(value)
	}
	return out, nil
}

// Rotate makes a new key, seals every value with it, and then drops the older keys. It gives the number of values.
func (v *Vault) Rotate(ctx context.Context) (resealed int, err error) {
	v.rotating.Lock()
	defer v.rotating.Unlock()
	if err := v.begin(); err != nil {
		return 0, err
	}
	for range maxRounds {
		left, done := 0, 0
		for e, err := range v.store.List(ctx, prefix) {
			if err != nil {
				return resealed, err
			}
			switch again, err := v.reseal(ctx, e); {
			case errors.Is(err, store.ErrConflict): // set or deleted meanwhile; the next round looks
				left++
			case err != nil:
				return resealed, err
			case again:
				done++
			}
		}
		resealed += done
		if left == 0 && done == 0 { // a round that found nothing to do: no value needs the older keys
			return resealed, v.keys.replace(v.keys.all()[:1])
		}
	}
	return resealed, lambent.Errorf(lambent.CodeConflict, "secrets are set all the time; the older keys are kept").WithHint("rotate again")
}

// begin puts a new key before the others. What is sealed afterwards is sealed with it: those that have sealed with
// an older one have stored it by then.
func (v *Vault) begin() error {
	v.sealing.Lock()
	defer v.sealing.Unlock()
	return v.keys.replace(append([]key{newKey()}, v.keys.all()...))
}

// reseal seals a value with the first key, unless it is.
func (v *Vault) reseal(ctx context.Context, e store.Entry) (done bool, err error) {
	r, err := decode(e)
	if err != nil {
		return false, err
	}
	if r.Sealed.Key == v.keys.all()[0].ID {
		return false, nil
	}
	value, err := v.keys.open(r.identity(), r.Sealed)
	if err != nil {
		return false, lambent.Errorf(lambent.CodeInternal, "the secret %s of namespace %s cannot be opened: %w", r.Name, r.Namespace, err).
			WithHint("nothing is lost by the rotation: set the secret again or delete it, then rotate again")
	}
	return true, v.put(ctx, r, value)
}
