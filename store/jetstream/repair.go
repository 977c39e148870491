package jetstream

import (
	"fmt"
	"time"
)

// repairEvery is how often a store that takes no writes looks whether it can again. What fails is tried less and less
// often, but at least once in repairAtLeast.
const (
	repairEvery   = time.Second
	repairAtLeast = time.Minute
)

// breakage is why and since when a stream takes no writes.
type breakage struct {
	cause error
	lost  error         // a repair found that acknowledged writes are gone: it was the last
	next  time.Time     // not before then is the next repair
	wait  time.Duration // from then to the one after it
}

// fail looks whether the failed write was the stream's last. The lock is held.
func (s *Store) fail() {
	if fault := s.bucket.server.Fault(s.bucket.stream); fault != nil && s.broken == nil {
		s.broken = &breakage{cause: fault, wait: repairEvery}
		s.opts.Logger.Error("the store takes no writes until its disk does", "err", fault)
	}
}

func (s *Store) isBroken() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.broken != nil
}

// retry goes on with what a failed commit has left, without waiting for the next write.
func (s *Store) retry() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.catchUp() // its errors are for writers
}

// repair makes a stream whose disk has failed a write take writes again, once there is room: the server reads it anew,
// and it must hold all that was acknowledged. What the failed commit has left is not lost: see catchUp. The lock is held.
func (s *Store) repair() error {
	b := s.broken
	if b.lost != nil {
		return b.lost
	}
	if err := s.checkReserve(s.opts.Reserve); err != nil {
		return err
	}
	now := time.Now()
	if now.Before(b.next) {
		return fmt.Errorf("the store waits for its disk: %w", b.cause)
	}
	b.next, b.wait = now.Add(b.wait), min(2*b.wait, repairAtLeast)
	missing, err := s.reread()
	switch {
	case err != nil:
		s.opts.Logger.Error("the store still takes no writes", "err", err)
		return fmt.Errorf("the store waits for its disk: %w", err)
	case missing != "":
		b.lost = newOpening(s.opts, s.bucket).damaged(s.acked, nil, "a stream that lacks some"+missing)
		s.opts.Logger.Error("the disk lost what the store had acknowledged", "err", b.lost)
		return b.lost
	}
	s.broken = nil
	s.opts.Logger.Info("the store takes writes again")
	return nil
}

// reread has the server read the stream from the disk, and tells what is missing of it.
func (s *Store) reread() (missing string, err error) {
	s.repairing.Lock()
	err = s.bucket.server.Restore(s.ctx)
	s.repairing.Unlock()
	if err != nil {
		return "", err
	}
	last, err := s.bucket.last(s.ctx)
	if err != nil {
		return "", err
	}
	_, missing, err = newOpening(s.opts, s.bucket).read(s.ctx, s.acked, last)
	return missing, err
}
