package lambent

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// LatestAlias is the alias that follows deploys. It is kept inside the function; see [Function.Latest].
const LatestAlias = "latest"

// Alias is a named pointer of a function to one revision, or to several with weights. One whose name is a
// number is a published version: it never moves.
type Alias struct {
	Namespace string `json:"namespace"`
	Function  string `json:"function"`
	Name      string `json:"name"`
	// Version is the resource version for optimistic concurrency: it changes with every write.
	Version uint64    `json:"version"`
	Updated time.Time `json:"updated"`
	Targets []Target  `json:"targets"`
	// Sticky says where a request carries the key that decides between the targets, "header:NAME" or
	// "query:NAME". Requests without one, and all when it is empty, are dealt out by weight.
	Sticky string `json:"sticky,omitempty"`
	// Previous is what the targets were before the last move, which a rollback goes back to.
	Previous []Weight `json:"previous,omitempty"`
}

// Target is a revision and its weight among an alias's. The revision is kept whole, so that one read tells how
// to serve it.
type Target struct {
	Revision *Revision `json:"revision"`
	Weight   int       `json:"weight"`
}

// Weight is a target by the id of its revision.
type Weight struct {
	Revision string `json:"revision"`
	Weight   int    `json:"weight"`
}

const (
	maxTargets = 10 // whole revisions, all in one value of the store
	maxWeight  = 1000
)

var (
	numberRE     = regexp.MustCompile(`^[0-9]+$`)
	revisionIDRE = regexp.MustCompile(`^[0-9a-f]{16}$`)
	stickyRE     = regexp.MustCompile("^(header:[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}|query:[A-Za-z0-9._~-]{1,100})$")
)

// IsPublished tells whether an alias of that name is a published version.
func IsPublished(name string) bool { return numberRE.MatchString(name) }

// IsRevisionID tells whether ref has the form of a revision's id.
func IsRevisionID(ref string) bool { return revisionIDRE.MatchString(ref) }

// CheckAlias tells whether people may set, move and delete an alias of that name: conflict for the names
// that are not theirs to move, invalid_request for those that are no names.
func CheckAlias(name string) error {
	switch {
	case name == LatestAlias:
		return Errorf(CodeConflict, "%s follows the deploys of its function, it cannot be set or deleted", name).
			WithHint("deploy, or go back with: lambent rollback")
	case IsPublished(name):
		return Errorf(CodeConflict, "%s names a published version: it never moves, and goes with its function", name).
			WithHint("publish makes the next number; for a pointer that moves choose a name that is no number")
	case IsRevisionID(name):
		return Errorf(CodeInvalidRequest, "%q is no valid alias name: it has the form of a revision's id", name).
			WithHint("choose another name")
	}
	return CheckName("alias", name)
}

// Check tells whether a's targets and sticky key are valid. The error names the field.
func (a *Alias) Check() error {
	if len(a.Targets) == 0 || len(a.Targets) > maxTargets {
		return Errorf(CodeInvalidRequest, "targets: %d is not between 1 and %d", len(a.Targets), maxTargets)
	}
	seen := map[string]bool{}
	for i, t := range a.Targets {
		if t.Weight < 1 || t.Weight > maxWeight {
			return Errorf(CodeInvalidRequest, "targets[%d].weight: %d is not between 1 and %d", i, t.Weight, maxWeight).
				WithHint("leave out a revision that shall have no traffic")
		}
		if seen[t.Revision.ID] {
			return Errorf(CodeInvalidRequest, "targets[%d].revision: %s is there twice", i, t.Revision.ID)
		}
		seen[t.Revision.ID] = true
	}
	if a.Sticky != "" && !stickyRE.MatchString(a.Sticky) {
		return Errorf(CodeInvalidRequest, "sticky: %q is neither header:NAME nor query:NAME", a.Sticky).
			WithHint("use one such as header:X-User")
	}
	return nil
}

// Weights gives the targets by id.
func (a *Alias) Weights() []Weight {
	out := make([]Weight, len(a.Targets))
	for i, t := range a.Targets {
		out[i] = Weight{t.Revision.ID, t.Weight}
	}
	return out
}

// Pick gives the revision that serves a request with that header and target. Requests with the same key get
// the same one as long as the weights stand, on every node and after a restart.
func (a *Alias) Pick(h http.Header, target string) *Revision {
	if len(a.Targets) == 1 {
		return a.Targets[0].Revision
	}
	if key := a.key(h, target); key != "" {
		return a.owner(key)
	}
	total := 0
	for _, t := range a.Targets {
		total += t.Weight
	}
	return a.at(rand.IntN(total))
}

// at gives the target whose weight has the n-th place among all.
func (a *Alias) at(n int) *Revision {
	for _, t := range a.Targets {
		if n -= t.Weight; n < 0 {
			return t.Revision
		}
	}
	panic("unreachable: n is below the sum of the weights")
}

func (a *Alias) key(h http.Header, target string) string {
	kind, name, _ := strings.Cut(a.Sticky, ":")
	switch kind {
	case "header":
		return h.Get(name)
	case "query":
		_, query, _ := strings.Cut(target, "?")
		values, _ := url.ParseQuery(query) // what cannot be read is no key
		return values.Get(name)
	}
	return ""
}

// owner is rendezvous hashing with weights, by the logarithmic method (Schindelhauer and Schomaker, "Weighted
// Distributed Hash Tables", SPAA 2005): each target draws an exponential variable of rate weight from the key,
// and the smallest wins. A change of one weight moves keys to or from its target only, and no more than it must.
func (a *Alias) owner(key string) *Revision {
	var owner *Revision
	least := math.Inf(1)
	for _, t := range a.Targets {
		sum := sha256.Sum256([]byte(t.Revision.ID + "\x00" + key))
		uniform := (float64(binary.BigEndian.Uint64(sum[:8])>>11) + 0.5) / (1 << 53) // in (0, 1)
		if draw := -math.Log(uniform) / float64(t.Weight); draw < least {
			owner, least = t.Revision, draw
		}
	}
	return owner
}
