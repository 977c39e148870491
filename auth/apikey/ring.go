package apikey

import (
	"crypto/sha256"
	"sync"

	"lambent"
)

// Ring is the keys that a node takes: the admin key and those of namespaces. Reads take no lock, and a look-up costs
// the same however many keys there are.
//
// The look-up goes by the hash of what the caller sent. How long it takes may tell of that hash, which is of no use to
// who cannot find what has a given hash, so only the admin key is compared in constant time.
type Ring struct {
	admin Key
	byKey sync.Map // hash -> lambent.Principal

	mu     sync.Mutex // held while a key is set or deleted
	byName map[[2]string][sha256.Size]byte
}

// NewRing makes a Ring that takes the admin key only.
func NewRing(admin Key) *Ring {
	return &Ring{admin: admin, byName: map[[2]string][sha256.Size]byte{}}
}

// Authenticate tells whose key text is.
func (r *Ring) Authenticate(text string) (who lambent.Principal, ok bool) {
	if r.admin.Check(text) {
		return lambent.Principal{Name: "admin", Role: lambent.RoleAdmin}, true
	}
	found, ok := r.byKey.Load(sha256.Sum256([]byte(text)))
	if !ok {
		return lambent.Principal{}, false
	}
	return found.(lambent.Principal), true
}

// Set takes the key whose hash is sum for who, and no longer one that who had before. It must be of a namespace.
func (r *Ring) Set(who lambent.Principal, sum [sha256.Size]byte) {
	r.Delete(who.Namespace, who.Name)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.byName[[2]string{who.Namespace, who.Name}] = sum
	r.byKey.Store(sum, who)
}

// Delete takes that key no more.
func (r *Ring) Delete(namespace, name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := [2]string{namespace, name}
	if sum, ok := r.byName[id]; ok {
		r.byKey.Delete(sum)
		delete(r.byName, id)
	}
}
