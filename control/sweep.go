package control

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"lambent"
	"lambent/store"
)

// sweepShare bounds how much of the time goes into looking for references to code: one in so many parts.
const sweepShare = 50

// takeDue gives the code that has been pending for the grace, in which instances come to their end.
func (c *Collector) takeDue(now time.Time) map[string]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	due := map[string]bool{}
	for digest, since := range c.pending {
		if now.Sub(since) >= c.Grace {
			due[digest] = true
			delete(c.pending, digest)
		}
	}
	return due
}

// sweep removes the code of due that nothing refers to. now is before the references are read.
func (c *Collector) sweep(ctx context.Context, due map[string]bool, now time.Time) error {
	gone, err := c.removeCode(ctx, due, now)
	if len(gone) > 0 {
		c.Logger.Info("removed code that nothing refers to", "bundles", len(gone))
		err = errors.Join(err, c.unmark(ctx, func(digest string) bool { return gone[digest] }))
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

// removeCode leaves in due what it did not get to, and takes out what is in use.
func (c *Collector) removeCode(ctx context.Context, due map[string]bool, now time.Time) (gone map[string]bool, err error) {
	for entry, err := range c.Store.List(ctx, revisionPrefix) {
		if err != nil {
			return nil, err
		}
		var r struct{ Code, Source string } // all that is needed, of very many
		if json.Unmarshal(entry.Value, &r) != nil {
			continue // what cannot be read never runs
		}
		delete(due, r.Code)
		delete(due, r.Source)
		if len(due) == 0 {
			return nil, nil
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
	for entry, err := range c.Store.List(ctx, AliasPrefix) {
		if err != nil {
			return nil, err
		}
		if a, err := DecodeAlias(entry); err == nil {
			for _, t := range a.Targets {
				use(t.Revision)
			}
		}
	}
	for r := range c.Live {
		use(r)
	}
	gone = map[string]bool{}
	for digest := range due {
		removed, err := c.Code.Remove(digest, now.Add(-c.Grace))
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
