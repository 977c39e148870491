package control

import (
	"cmp"
	"context"
	"errors"
	"hash/maphash"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"lambent"
	"lambent/store"
)

// CollectorOptions is what a Collector works on. Fields from Keep on may be zero.
type CollectorOptions struct {
	Store     store.Store
	Functions Functions
	Code      CodeGarbage
	Logs      LogGarbage
	// Live gives the revisions that have instances or callers on this node.
	Live iter.Seq[*lambent.Revision]

	Keep   int           // latest revisions of a function that stay although nothing refers to them; default 10
	Tick   time.Duration // between two looks at the functions that have changed; default 10s
	Grace  time.Duration // from when code may have lost its last reference, unused since, to its removal; default 1m
	Full   time.Duration // between two looks at everything; default 1h
	Logger *slog.Logger  // slog.Default() if nil
}

// CodeGarbage is the code store as a Collector uses it.
type CodeGarbage interface {
	// Has tells whether a bundle is here.
	Has(digest string) bool
	// Unused gives the digests that nobody has put, held or asked for since.
	Unused(since time.Time) ([]string, error)
	// Remove removes what is here of a digest, unless somebody holds it, or has used it since.
	Remove(digest string, since time.Time) (bool, error)
}

// LogGarbage is the log store as a Collector uses it.
type LogGarbage interface {
	// Names gives the namespace and name of every function that has written something.
	Names() iter.Seq2[string, string]
	Remove(namespace, function string) error
}

// Collector removes revisions that nothing refers to but for the latest few of each function, code that no revision
// refers to, and what operations that broke off have left. It looks at the functions that have changed, and now
// and then at everything.
//
// What makes it safe: a revision is deleted only as it was listed, before the references were read, and whoever
// refers to one writes it anew first. Code is removed only if nobody has held it since a while before the
// references were read, and whoever refers to it holds it until the reference is stored. What cannot be read stays, and
// so does all that it may refer to.
type Collector struct {
	CollectorOptions

	mu      sync.Mutex
	changed map[Named]struct{}   // guarded by mu
	pending map[string]time.Time // digests that may have lost their last reference, and when; guarded by mu

	suspects   []suspect         // what belongs to no function, if that is still so after a while
	unreadable map[string]uint64 // revisions of the entries that could not be read, by key
	seed       maphash.Seed
	next       struct{ full, suspects, sweep time.Time }
}

// suspect is an entry of the store, or the logs where the entry is empty, of a function that was not there.
type suspect struct {
	of    Named
	entry store.Entry
}

// NewCollector makes a Collector; it does nothing before Run.
func NewCollector(o CollectorOptions) *Collector {
	def(&o.Keep, 10)
	def(&o.Tick, 10*time.Second)
	def(&o.Grace, time.Minute)
	def(&o.Full, time.Hour)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Collector{
		CollectorOptions: o,
		changed:          map[Named]struct{}{}, pending: map[string]time.Time{}, unreadable: map[string]uint64{},
		seed: maphash.MakeSeed(),
	}
}

func def[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

// Changed says that what refers to revisions of a function has changed, and names code that may not be referred to any
// more.
func (c *Collector) Changed(namespace, name string, code ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changed[Named{namespace, name}] = struct{}{}
	c.suspect(code)
}

// suspect notes code that may have lost its last reference. The lock is held.
func (c *Collector) suspect(code []string) {
	now := time.Now()
	for _, digest := range code {
		if digest != "" {
			c.pending[digest] = now // what was pending is in doubt anew
		}
	}
}

// Run collects until ctx ends. It must not run while another process uses the code or the logs.
func (c *Collector) Run(ctx context.Context) {
	tick := time.NewTicker(c.Tick)
	defer tick.Stop()
	c.next.full = time.Now().Add(c.Grace)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := c.collect(ctx, time.Now()); err != nil && ctx.Err() == nil {
			c.Logger.Warn("garbage stays for now", "err", err)
		}
	}
}

func (c *Collector) collect(ctx context.Context, now time.Time) error {
	changed := c.takeChanged()
	for n := range changed {
		if err := c.trim(ctx, n); err != nil {
			for n := range changed {
				c.Changed(n.Namespace, n.Name)
			}
			return err
		}
		delete(changed, n)
	}
	if !now.Before(c.next.full) {
		c.next.full = now.Add(c.Full)
		c.next.suspects = now.Add(c.Grace)
		if err := c.look(ctx, now); err != nil {
			return err
		}
	}
	if len(c.suspects) > 0 && !now.Before(c.next.suspects) {
		if err := c.removeSuspects(ctx); err != nil {
			return err
		}
	}
	if now.Before(c.next.sweep) {
		return nil
	}
	if due := c.takeDue(now); len(due) > 0 {
		err := c.sweep(ctx, due, now)
		c.next.sweep = now.Add(sweepShare * time.Since(now))
		return err
	}
	return nil
}

func (c *Collector) takeChanged() map[Named]struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed := c.changed
	c.changed = map[Named]struct{}{}
	return changed
}

// trim removes the revisions of a function that nothing refers to, but for those that were last put to use.
func (c *Collector) trim(ctx context.Context, n Named) error {
	revisions, err := listed(ctx, c.Store, revisionsOf(n.Namespace, n.Name))
	if err != nil || len(revisions) <= c.Keep {
		return err
	}
	referred, err := c.referred(ctx, n)
	if err != nil || referred == nil {
		return err
	}
	slices.SortFunc(revisions, func(a, b store.Entry) int { return cmp.Compare(b.Revision, a.Revision) }) // a use writes the entry
	kept := 0
	for _, entry := range revisions {
		r, err := decodeRevision(entry)
		switch {
		case err != nil:
			c.leave(entry, err)
		case referred[r.ID]:
		case kept < c.Keep:
			kept++
		default:
			if err := c.drop(ctx, entry, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// leave says once that an entry cannot be read.
func (c *Collector) leave(entry store.Entry, err error) {
	if c.unreadable[entry.Key] != entry.Revision {
		c.unreadable[entry.Key] = entry.Revision
		c.Logger.Error("garbage that may belong to what cannot be read stays", "entry", entry.Key, "err", err)
	}
}

// referred gives the ids of the revisions that a function and its aliases refer to; nil if there is no such function, or
// if that cannot be known.
func (c *Collector) referred(ctx context.Context, n Named) (map[string]bool, error) {
	entry, err := c.Store.Get(ctx, functionKey(n.Namespace, n.Name))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	f, err := DecodeFunction(entry)
	if err != nil {
		c.leave(entry, err)
		return nil, nil
	}
	ids := map[string]bool{f.Previous: true}
	note := func(a *lambent.Alias) {
		for _, w := range slices.Concat(a.Weights(), a.Previous) {
			ids[w.Revision] = true
		}
	}
	note(f.Alias())
	for entry, err := range c.Store.List(ctx, aliasesOf(n.Namespace, n.Name)) {
		if err != nil {
			return nil, err
		}
		a, err := DecodeAlias(entry)
		if err != nil {
			c.leave(entry, err)
			return nil, nil
		}
		note(a)
	}
	return ids, nil
}

// drop deletes a revision, unless it was put to use since it was listed.
func (c *Collector) drop(ctx context.Context, entry store.Entry, r *lambent.Revision) error {
	_, err := c.Store.Delete(ctx, entry.Key, entry.Revision)
	if errors.Is(err, store.ErrConflict) {
		return nil
	}
	if err != nil {
		return err
	}
	c.Logger.Debug("removed a revision that nothing refers to", "revision", r.Key())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.suspect([]string{r.Code, r.Source})
	return nil
}

// look goes through everything for what was missed: by a crash, or because it was there before.
func (c *Collector) look(ctx context.Context, now time.Time) error {
	c.suspects = nil
	counts := map[uint64]int{} // by a hash of the name: there may be very many functions
	for entry, err := range c.Store.List(ctx, revisionPrefix) {
		if err != nil {
			return err
		}
		n, ok := c.owner(entry, revisionPrefix)
		if !ok {
			continue
		}
		hash := maphash.Comparable(c.seed, n)
		if counts[hash]++; counts[hash] > c.Keep+2 { // what every function may have: latest, the one before, the kept
			c.Changed(n.Namespace, n.Name)
		}
	}
	for entry, err := range c.Store.List(ctx, AliasPrefix) {
		if err != nil {
			return err
		}
		c.owner(entry, AliasPrefix)
	}
	for namespace, name := range c.Logs.Names() {
		if _, there := c.Functions.Lookup(namespace, name); !there {
			c.suspects = append(c.suspects, suspect{of: Named{namespace, name}})
		}
	}
	if err := c.unmark(ctx, func(digest string) bool { return !c.Code.Has(digest) }); err != nil {
		return err
	}
	unused, err := c.Code.Unused(now.Add(-c.Full))
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, digest := range unused {
		if _, there := c.pending[digest]; !there {
			c.pending[digest] = now
		}
	}
	return err
}

// owner gives the function that an entry belongs to. If it is not there the entry is suspect, and ok is false.
func (c *Collector) owner(entry store.Entry, prefix string) (n Named, ok bool) {
	namespace, rest, _ := strings.Cut(strings.TrimPrefix(entry.Key, prefix), ".")
	name, _, _ := strings.Cut(rest, ".")
	n = Named{namespace, name}
	if _, ok = c.Functions.Lookup(namespace, name); !ok {
		c.suspects = append(c.suspects, suspect{n, entry})
	}
	return n, ok
}

// removeSuspects removes what still belongs to no function: a deploy that was making it would have ended by now. What
// cannot be removed is found again.
func (c *Collector) removeSuspects(ctx context.Context) error {
	suspects := c.suspects
	c.suspects = nil
	live := map[Named]bool{}
	for r := range c.Live {
		live[Named{r.Namespace, r.Function}] = true
	}
	for _, left := range suspects {
		n := left.of
		_, err := c.Store.Get(ctx, functionKey(n.Namespace, n.Name))
		switch {
		case err == nil || live[n]:
			continue
		case !errors.Is(err, store.ErrNotFound):
			return err
		case left.entry.Key == "":
			err = c.Logs.Remove(n.Namespace, n.Name)
		case strings.HasPrefix(left.entry.Key, revisionPrefix):
			r, unread := decodeRevision(left.entry)
			if unread != nil {
				c.leave(left.entry, unread)
				continue
			}
			err = c.drop(ctx, left.entry, r)
		default:
			_, err = c.Store.Delete(ctx, left.entry.Key, left.entry.Revision)
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil, errors.Is(err, store.ErrConflict):
			c.Logger.Info("removed what was left of a function that is gone", "function", n.Namespace+"/"+n.Name, "entry", left.entry.Key)
		default:
			c.Logger.Warn("what was left of a function that is gone stays for now", "function", n.Namespace+"/"+n.Name, "entry", left.entry.Key, "err", err)
		}
	}
	return nil
}
