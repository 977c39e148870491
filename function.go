package lambent

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"regexp"
	"time"
	"unique"
)

// DefaultNamespace is the namespace of names that say none.
const DefaultNamespace = "default"

// Function is a name in a namespace; what it runs is its latest revision.
type Function struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Version is the resource version for optimistic concurrency: it changes with every write.
	Version uint64    `json:"version"`
	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`
	// Latest is what the alias "latest" points to. It is kept whole inside the function, so that one
	// atomic write moves traffic and one read tells how to serve it.
	Latest *Revision `json:"latest"`
	// Previous is the id of the revision that was Latest before, which a rollback goes back to.
	Previous string `json:"previous,omitempty"`
	// Isolation is how strongly the node that answers isolates the function. It is not kept.
	Isolation *Isolation `json:"isolation,omitempty"`
	// Circuit is why the node that answers does not start Latest any more, if so. It is not kept.
	Circuit *Error `json:"circuit,omitempty"`
}

// Alias gives f's alias "latest".
func (f *Function) Alias() *Alias {
	a := &Alias{Namespace: f.Namespace, Function: f.Name, Name: LatestAlias, Version: f.Version, Updated: f.Updated,
		Targets: []Target{{f.Latest, 1}}}
	if f.Previous != "" {
		a.Previous = []Weight{{f.Previous, 1}}
	}
	return a
}

// Revision is an immutable snapshot of a function: its settings and the digest of its code.
type Revision struct {
	Namespace string `json:"namespace"`
	Function  string `json:"function"`
	// ID is the digest of what follows, up to Root: the same input gives the same revision.
	ID       string    `json:"id"`
	Settings Settings  `json:"settings"`
	Code     string    `json:"code"` // digest of the bundle, "sha256:" and 64 hex digits
	Root     string    `json:"root"` // identity of the root file system that it runs on
	Created  time.Time `json:"created"`
	// Source is the digest of the bundle that Code was built from; "" where nothing was built.
	Source string `json:"source,omitempty"`
}

// NewRevision makes the revision of namespace/function with complete settings (see [Settings.Complete]).
func NewRevision(namespace, function string, s Settings, code, root string, now time.Time) *Revision {
	r := &Revision{Namespace: namespace, Function: function, Settings: s, Code: code, Root: root}
	raw, err := json.Marshal(r) // maps are written in key order, so this is canonical
	if err != nil {
		panic(err) // plain data always marshals
	}
	sum := sha256.Sum256(raw)
	r.ID = hex.EncodeToString(sum[:8])
	r.Created = now.UTC().Truncate(time.Millisecond)
	return r
}

// Share lets r's strings that many revisions have in common be one copy in memory. It is for revisions that
// are kept by the thousand.
func (r *Revision) Share() {
	for _, s := range []*string{&r.Namespace, &r.Code, &r.Root, &r.Settings.Runtime, &r.Settings.Handler, &r.Settings.Tier, &r.Settings.Reuse, &r.Settings.Auth} {
		*s = unique.Make(*s).Value()
	}
}

// Key names the revision on the whole node: "namespace/function@id".
func (r *Revision) Key() string { return r.Namespace + "/" + r.Function + "@" + r.ID }

var nameRE = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)

// CheckName tells whether name may name a function or namespace. Names are DNS labels, because they
// appear in host names; what is "function" or "namespace", for the message.
func CheckName(what, name string) error {
	if nameRE.MatchString(name) {
		return nil
	}
	return Errorf(CodeInvalidRequest, "%q is no valid %s name", name, what).
		WithHint("use 1 to 63 of a-z, 0-9 and -, begin with a letter, end with a letter or digit")
}
