// Package jetstream keeps a store in a JetStream key-value bucket, in a server inside this process; `nats kv`
// can read it.
//
// Nothing that was acknowledged vanishes silently, although NATS mends damaged files by dropping messages
// without a word. A small file beside the bucket, the watermark, holds what was acknowledged: the last
// sequence, and the number and a sum of all live (key, revision) pairs. A write is acknowledged when both
// the stream and the watermark are on the disk. Only one batch of writes, in which no key occurs twice, is
// ever under way, and each message says which revision it replaces. So whatever the moment of a crash, [Open] can
// take the messages behind the watermark back, and compare what is left with it: see read. A write that fails for the
// disk, because it is full or broken, is followed by the same look at the disk before the next: see repair.
package jetstream

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"lambent/internal/embednats"
	"lambent/store"
	"lambent/store/internal/watch"
)

// DefaultReserve is the free space, in bytes, below which writes are refused.
const DefaultReserve = 256 << 20

// Options say where a store is.
type Options struct {
	Server *embednats.Server
	Bucket string // a JetStream bucket name
	// Reserve is the free space in bytes that puts leave on the file system, so that a full disk is the end of
	// writes and of nothing else. Deletes leave a 64th of it. 0 means DefaultReserve.
	Reserve int64
	// AcceptLoss opens a store that lost acknowledged writes: what is left is written anew, and the damaged
	// files are kept beside it. See [ErrDamaged].
	AcceptLoss bool
	Logger     *slog.Logger // slog.Default() if nil
}

// Store is a [store.Store] on the disk. It must be closed before its server.
type Store struct {
	opts   Options
	bucket *bucket
	mark   *watermark
	hub    watch.Hub

	writes  chan *write
	closing chan struct{}
	close   sync.Once
	ctx     context.Context // ends when Close does not wait any longer
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu       sync.Mutex // held for the whole of a commit
	live     map[string]uint64
	dead     map[string]uint64 // deleted keys, and the sequences of the messages that say so
	acked    state             // what the watermark says
	behind   bool              // a commit failed half way: the stream may be ahead of acked
	broken   *breakage         // the stream takes no writes; nil if it does
	sweeping bool              // messages of deleted keys are being removed
	opened   []store.Entry     // all entries as Open has read them; nil once they changed, or after openedLife

	forget *time.Timer // of opened

	repairing sync.RWMutex // held for writing while the server does not answer
}

var _ store.Store = (*Store)(nil)

// openedLife is how long the entries that Open has read are kept for the watches that begin right after it, which
// halves the time of a restart.
const openedLife = 10 * time.Second

// closeTimeout is how long Close waits for the commit under way.
const closeTimeout = 5 * time.Second

func start(opts Options, b *bucket, found *contents, mark *watermark) *Store {
	s := &Store{
		opts: opts, bucket: b, mark: mark,
		writes: make(chan *write), closing: make(chan struct{}),
		live: found.live, dead: found.dead, acked: found.state, opened: found.entries,
	}
	size := len(found.entries)
	s.forget = time.AfterFunc(openedLife, func() {
		s.mu.Lock()
		s.opened = nil
		s.mu.Unlock()
		if size > 10_000 {
			debug.FreeOSMemory() // by itself Go keeps for minutes what only the start needed
		}
	})
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.running.Go(s.commitLoop)
	return s
}

// Get implements [store.Store].
func (s *Store) Get(ctx context.Context, key string) (store.Entry, error) {
	if err := store.CheckKey(key); err != nil {
		return store.Entry{}, err
	}
	if err := s.usable(ctx); err != nil {
		return store.Entry{}, err
	}
	s.repairing.RLock()
	m, err := s.bucket.get(ctx, key)
	s.repairing.RUnlock()
	if err == nil && m.Deleted {
		err = store.ErrNotFound
	}
	if err != nil {
		return store.Entry{}, err
	}
	return m.Entry, nil
}

// Put implements [store.Store].
func (s *Store) Put(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	if err := store.CheckValue(value); err != nil {
		return 0, err
	}
	return s.write(ctx, &write{key: key, value: value, expected: revision})
}

// Delete implements [store.Store].
func (s *Store) Delete(ctx context.Context, key string, revision uint64) (uint64, error) {
	return s.write(ctx, &write{key: key, deleted: true, expected: revision})
}

// List implements [store.Store].
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[store.Entry, error] {
	return func(yield func(store.Entry, error) bool) {
		if err := cmp.Or(store.CheckPrefix(prefix), s.usable(ctx)); err != nil {
			yield(store.Entry{}, err)
			return
		}
		// A key that is written while the scan is under way moves to the end and may be met twice.
		seen := map[string]struct{}{}
		for m, err := range s.bucket.scan(ctx, prefix, 1) {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				yield(store.Entry{}, err)
				return
			}
			if _, again := seen[m.Key]; again || m.Deleted {
				continue
			}
			seen[m.Key] = struct{}{}
			if !yield(m.Entry, nil) {
				return
			}
		}
	}
}

// Watch implements [store.Store].
func (s *Store) Watch(ctx context.Context, prefix string) iter.Seq2[store.Event, error] {
	return s.hub.Watch(ctx, prefix, func() (uint64, iter.Seq2[store.Entry, error]) { return s.snapshot(ctx, prefix) }, s.settle)
}

// snapshot gives the last revision and the entries up to it.
func (s *Store) snapshot(ctx context.Context, prefix string) (uint64, iter.Seq2[store.Entry, error]) {
	s.mu.Lock()
	last, opened := s.acked.Last, s.opened
	s.mu.Unlock()
	return last, func(yield func(store.Entry, error) bool) {
		if err := s.usable(ctx); err != nil {
			yield(store.Entry{}, err)
			return
		}
		if opened != nil {
			for _, entry := range opened {
				if strings.HasPrefix(entry.Key, prefix) && !yield(entry, nil) {
					return
				}
			}
			return
		}
		for m, err := range s.bucket.scan(ctx, prefix, 1) {
			if err == nil && m.Revision > last {
				return
			}
			if err == nil && m.Deleted {
				continue
			}
			if !yield(m.Entry, err) {
				return
			}
		}
	}
}

// settle returns when every change that a scan could have seen so far has been published to the watches.
func (s *Store) settle() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.catchUp()
}

func (s *Store) usable(ctx context.Context) error {
	select {
	case <-s.closing:
		return store.ErrClosed
	default:
		return ctx.Err()
	}
}

// Close implements [store.Store]. It waits for the commit under way, at most 5 s.
func (s *Store) Close() error {
	var err error
	s.close.Do(func() {
		close(s.closing)
		late := time.AfterFunc(closeTimeout, s.cancel)
		s.running.Wait()
		late.Stop()
		s.forget.Stop()
		s.cancel()
		s.hub.Close()
		err = s.mark.close()
	})
	return err
}

var errOutcome = errors.New("the write failed half way; it may have been done")
