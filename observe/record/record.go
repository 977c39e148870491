// Package record keeps the latest invocation records: in memory, and in files for after a restart.
//
// Adding a record takes no lock. One goroutine appends the records to a file as lines of JSON; when the
// files grow past their bound, the oldest goes. A record that cannot be written is counted, never waited for.
package record

import (
	"cmp"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"lambent"
)

// Options configures a Store. The zero value of a field but Dir means its default.
type Options struct {
	Dir          string       // made if missing
	Ring         int          // records in memory; default 16,384
	Segments     int          // files; default 8
	SegmentBytes int64        // size at which the next file begins; default 16 MiB
	Logger       *slog.Logger // told of losses; default slog.Default()
}

func (o *Options) setDefaults() {
	o.Ring = cmp.Or(o.Ring, 16<<10)
	o.Segments = cmp.Or(o.Segments, 8)
	o.SegmentBytes = cmp.Or(o.SegmentBytes, 16<<20)
	o.Logger = cmp.Or(o.Logger, slog.Default())
}

type atomicRecord = atomic.Pointer[lambent.Record]

// Store keeps records.
type Store struct {
	opt   Options
	ring  []atomicRecord
	added atomic.Uint64 // records that ever got a place in ring

	queue  chan *lambent.Record
	stop   chan struct{}
	closed atomic.Bool
	writer sync.WaitGroup
	lost   atomic.Uint64
	files  *segments
}

// Open opens the store in opt.Dir and begins to write to it. A line that was cut short by a crash is left out.
func Open(opt Options) (*Store, error) {
	opt.setDefaults()
	files, err := openSegments(opt.Dir, opt.Segments, opt.SegmentBytes)
	if err != nil {
		return nil, fmt.Errorf("open the records: %w", err)
	}
	s := &Store{
		opt:   opt,
		ring:  make([]atomicRecord, opt.Ring),
		queue: make(chan *lambent.Record, opt.Ring/2), // so that a record is in a file before it leaves the ring
		stop:  make(chan struct{}),
		files: files,
	}
	s.writer.Go(s.write)
	return s, nil
}

// Add keeps r, which must not change any more. It never blocks.
func (s *Store) Add(r *lambent.Record) {
	place := s.added.Add(1) - 1
	s.ring[place%uint64(len(s.ring))].Store(r)
	if s.closed.Load() {
		s.lost.Add(1)
		return
	}
	select {
	case s.queue <- r:
	default:
		s.lost.Add(1)
	}
}

// Lost counts the records that were not written to a file.
func (s *Store) Lost() uint64 { return s.lost.Load() }

// Get gives the record of an invocation; ok is false when there is none any more.
func (s *Store) Get(id string) (r lambent.Record, ok bool) {
	for r := range s.memory {
		if r.ID == id {
			return *r, true
		}
	}
	return s.files.get(id)
}

// List gives up to limit records of a function, the latest first. An empty namespace or function means all.
func (s *Store) List(namespace, function string, limit int) []lambent.Record {
	var found []lambent.Record
	seen := map[string]bool{}
	take := func(r *lambent.Record) bool {
		if len(found) >= limit {
			return false
		}
		if (namespace == "" || r.Namespace == namespace) && (function == "" || r.Function == function) && !seen[r.ID] {
			seen[r.ID] = true
			found = append(found, *r)
		}
		return true
	}
	s.memory(take)
	if len(found) < limit {
		s.files.backwards(namespace, function, take)
	}
	return found
}

// memory gives the records of the ring, the latest first. It looks through all of them rather than in an
// index: that takes well under a millisecond, and an index would cost every invocation a shared lock.
func (s *Store) memory(yield func(*lambent.Record) bool) {
	size := uint64(len(s.ring))
	next := s.added.Load()
	for back := range min(size, next) {
		if r := s.ring[(next-1-back)%size].Load(); r != nil && !yield(r) {
			return
		}
	}
}

// Close writes what is queued and closes the files.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	close(s.stop)
	s.writer.Wait()
	return s.files.close()
}

// reportEvery bounds how often losses are logged.
const reportEvery = time.Minute

// gather is how long a batch collects records: a wake-up and a write for each would cost an invocation more
// than all else that is done to observe it.
const gather = 50 * time.Millisecond

// write appends batches.
func (s *Store) write() {
	var (
		batch    batch
		failure  error
		reported uint64
		last     time.Time
	)
	for {
		batch.reset()
		select {
		case r := <-s.queue:
			batch.add(r)
			if len(s.queue) < cap(s.queue)/8 {
				select {
				case <-time.After(gather):
				case <-s.stop:
				}
			}
		case <-s.stop:
		}
		batch.fill(s.queue)
		if batch.records == 0 {
			return // stopped, and nothing is left
		}
		if err := s.files.append(batch.text); err != nil {
			failure = err
			s.lost.Add(uint64(batch.records))
		}
		if lost := s.lost.Load(); lost != reported && time.Since(last) > reportEvery {
			s.opt.Logger.Warn("invocation records were not written", "lost", lost-reported, "err", failure)
			failure, reported, last = nil, lost, time.Now()
		}
	}
}
