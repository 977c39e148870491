package jetstream

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"lambent/store"
)

// A batch is bounded by what NATS allows, 1,000 messages, and by the memory that it takes.
const (
	batchWrites = 512
	batchBytes  = 4 << 20
)

// sweepSize is how many deleted keys collect before their messages are removed.
const sweepSize = 1000

// write is a change that waits to be committed.
type write struct {
	key      string
	value    []byte
	deleted  bool
	expected uint64 // the revision that the key must be at: 0 for none, store.Any for whichever

	previous uint64 // the revision that it was found at
	revision uint64 // the new one
	done     chan error
}

// write hands w to the committer and waits.
func (s *Store) write(ctx context.Context, w *write) (uint64, error) {
	if err := store.CheckKey(w.key); err != nil {
		return 0, err
	}
	if err := s.usable(ctx); err != nil {
		return 0, err
	}
	w.done = make(chan error, 1)
	select {
	case s.writes <- w:
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-s.closing:
		return 0, store.ErrClosed
	}
	select {
	case err := <-w.done:
		return w.revision, err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// commitLoop commits what waits, in batches: writers that come while a batch is being synced to the disk
// share the next one.
func (s *Store) commitLoop() {
	s.sweep()
	retry := time.NewTicker(repairEvery)
	defer retry.Stop()
	var waiting []*write
	for {
		if len(waiting) == 0 {
			select {
			case w := <-s.writes:
				waiting = append(waiting, w)
			case <-retry.C:
				s.retry()
				continue
			case <-s.closing:
				return
			}
		}
		waiting = s.collect(waiting)
		var batch []*write
		batch, waiting = split(waiting)
		s.commit(batch)
		s.sweep()
	}
}

// collect adds the writes that are there already.
func (s *Store) collect(waiting []*write) []*write {
	for len(waiting) < batchWrites {
		select {
		case w := <-s.writes:
			waiting = append(waiting, w)
		default:
			return waiting
		}
	}
	return waiting
}

// split takes the next batch from waiting: the first write to each key, as far as the size allows.
func split(waiting []*write) (batch, rest []*write) {
	keys := make(map[string]struct{}, len(waiting))
	size := 0
	for _, w := range waiting {
		_, again := keys[w.key]
		keys[w.key] = struct{}{}
		size += len(w.value)
		if again || len(batch) > 0 && size > batchBytes {
			rest = append(rest, w)
		} else {
			batch = append(batch, w)
		}
	}
	return batch, rest
}

// commit answers every write in batch, which holds no key twice.
func (s *Store) commit(batch []*write) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.catchUp(); err != nil {
		for _, w := range batch {
			w.done <- err
		}
		return
	}
	full, fuller := s.checkReserve(s.opts.Reserve), s.checkReserve(s.opts.Reserve/deletesReserve)
	changes := make([]*write, 0, len(batch))
	for _, w := range batch {
		w.previous = s.live[w.key]
		switch {
		case w.deleted && w.previous == 0 && w.expected == store.Any:
			w.done <- store.ErrNotFound
		case w.deleted && w.previous == 0, w.expected != store.Any && w.expected != w.previous:
			w.done <- store.ErrConflict
		case !w.deleted && full != nil:
			w.done <- full
		case fuller != nil:
			w.done <- fuller
		default:
			changes = append(changes, w)
		}
	}
	if len(changes) == 0 {
		return
	}
	err := s.append(changes)
	for _, w := range changes {
		w.done <- err
	}
}

// append writes changes to the stream, then to the watermark, then tells the watches.
func (s *Store) append(changes []*write) error {
	s.behind = true
	if err := s.bucket.publish(s.ctx, changes, s.acked.Last); err != nil {
		s.fail()
		return fmt.Errorf("%w: %w", errOutcome, err)
	}
	events := make([]store.Event, len(changes))
	for i, w := range changes {
		w.revision = s.acked.Last + 1 + uint64(i)
		events[i] = store.Event{Entry: store.Entry{Key: w.key, Value: w.value, Revision: w.revision}, Deleted: w.deleted}
	}
	return s.acknowledge(events)
}

// acknowledge makes the watermark tell of changes, which the stream has, and publishes them.
func (s *Store) acknowledge(changes []store.Event) error {
	next := s.acked
	for _, c := range changes {
		if old := s.live[c.Key]; old != 0 {
			next.remove(c.Key, old)
		}
		if !c.Deleted {
			next.add(c.Key, c.Revision)
		}
		next.Last = c.Revision
	}
	if err := s.mark.write(next); err != nil {
		return fmt.Errorf("%w: %w", errOutcome, err)
	}
	for _, c := range changes {
		if c.Deleted {
			delete(s.live, c.Key)
			s.dead[c.Key] = c.Revision
		} else {
			s.live[c.Key] = c.Revision
			delete(s.dead, c.Key)
		}
	}
	s.acked, s.behind, s.opened = next, false, nil
	s.hub.Publish(changes...)
	return nil
}

// catchUp acknowledges what a commit that failed half way has left in the stream. No key is in there twice,
// because there was no other commit since.
func (s *Store) catchUp() error {
	if s.broken != nil {
		if err := s.repair(); err != nil {
			return err
		}
	}
	if !s.behind {
		return nil
	}
	var changes []store.Event
	for m, err := range s.bucket.scan(s.ctx, "", s.acked.Last+1) {
		if err != nil {
			return fmt.Errorf("resume after a failed write: %w", err)
		}
		changes = append(changes, m.Event)
	}
	return s.acknowledge(changes)
}

// deletesReserve is what part of the reserve deletes leave.
const deletesReserve = 64

func (s *Store) checkReserve(reserve int64) error {
	var fs unix.Statfs_t
	dir := s.opts.Server.Dir()
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("statfs %s: %w", dir, err)
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < reserve {
		return fmt.Errorf("%w: %s has %d MiB free, the reserve is %d MiB", store.ErrFull, dir, free>>20, reserve>>20)
	}
	return nil
}

// sweep has the messages of deleted keys removed from the stream once there are enough of them, but for its last
// message, which keeps the last sequence on the disk. Each takes a sync of the disk, so writes go on meanwhile.
func (s *Store) sweep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.dead) < sweepSize || s.sweeping || s.checkReserve(s.opts.Reserve) != nil { // NATS needs room to make room
		return
	}
	dead := s.dead
	s.dead, s.sweeping = map[string]uint64{}, true
	for key, seq := range dead {
		if seq == s.acked.Last {
			delete(dead, key)
			s.dead[key] = seq // for the next time
		}
	}
	s.running.Go(func() {
		s.purge(dead)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sweeping = false
	})
}

func (s *Store) purge(dead map[string]uint64) {
	for key, seq := range dead {
		if s.usable(s.ctx) != nil || s.isBroken() {
			return
		}
		s.repairing.RLock()
		err := s.bucket.purge(s.ctx, key, seq)
		s.repairing.RUnlock()
		if err != nil {
			s.opts.Logger.Warn("messages of deleted keys stay until the next start", "err", err)
			return
		}
	}
}
