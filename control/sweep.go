package control

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"time"

	"lambent"
	"lambent/store"
)

// sweepShare bounds how much of the time goes into looking for references to code: one in so many parts.
const sweepShare = 50

// takeDue gives the code that has been pending for the grace, in which instances come to their end, and since when.
func (c *Collector) takeDue(now time.Time) map[string]time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	due := map[string]time.Time{}
	for digest, since := range c.pending {
		if now.Sub(since) >= c.Grace {
			due[digest] = since
			delete(c.pending, digest)
		}
	}
	return due
}

// sweep removes the code of due that nothing refers to. now is before the references are read.
func (c *Collector) sweep(ctx context.Context, due map[string]time.Time, now time.Time) error {
	gone, err := c.removeCode(ctx, due)
	if len(gone) > 0 {
		c.Logger.Info("removed code that nothing refers to", "bundles", len(gone))
		err = errors.Join(err, c.unmark(ctx, func(digest string) bool { return gone[digest] && !c.Code.Has(digest) }))
	}
	if err != nil { // what is gone by then is found to be
		c.mu.Lock()
		for digest := range due {
			c.pending[digest] = now
		}
		c.mu.Unlock()
	}
	return err
}

// digestRE finds what an entry refers to, whether or not it can be read otherwise.
var digestRE = regexp.MustCompile(`sha256:[0-9a-f]{64}`)

// removeCode leaves in due what it did not get to, and takes out what is in use. What was used since it came into doubt,
// as who uploads it again does, is not removed: it is as good as new.
func (c *Collector) removeCode(ctx context.Context, due map[string]time.Time) (gone map[string]bool, err error) {
	for _, prefix := range []string{revisionPrefix, AliasPrefix} {
		for entry, err := range c.Store.List(ctx, prefix) {
			if err != nil {
				return nil, err
			}
			for _, digest := range digestRE.FindAll(entry.Value, -1) {
				delete(due, string(digest))
			}
			if len(due) == 0 {
				return nil, nil
			}
		}
	}
	use := func(r *lambent.Revision) {
		delete(due, r.Code)
		delete(due, r.Source)
	}
	for namespace, name := range c.Functions.Names() {
		if f, ok := c.Functions.Lookup(namespace, name); ok {
			use(f.Latest)
		}
	}
	for r := range c.Live {
		use(r)
	}
	gone = map[string]bool{}
	for digest, since := range due {
		if err := ctx.Err(); err != nil {
			return gone, err
		}
		removed, err := c.Code.Remove(digest, since)
		if err != nil {
			return gone, err
		}
		if removed {
			gone[digest] = true
		}
	}
	return gone, nil
}

// unmark deletes the notes of who has uploaded code that is gone.
func (c *Collector) unmark(ctx context.Context, gone func(digest string) bool) error {
	var stale []store.Entry
	for entry, err := range c.Store.List(ctx, codePrefix) {
		if err != nil {
			return err
		}
		if _, hex, _ := strings.Cut(strings.TrimPrefix(entry.Key, codePrefix), "."); gone("sha256:" + hex) {
			stale = append(stale, entry)
		}
	}
	for _, entry := range stale {
		if _, err := c.Store.Delete(ctx, entry.Key, entry.Revision); err != nil && !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return nil
}
