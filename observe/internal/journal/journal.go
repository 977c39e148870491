// Package journal keeps the latest entries of one kind: in memory, and in files for after a restart.
//
// Adding an entry takes no lock. One goroutine appends the entries to a file as lines of JSON; when the
// files grow past their bound, the oldest goes. An entry that cannot be written is counted, never waited for.
package journal

import (
	"cmp"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Options configures a Journal. All but Append and Logger are needed.
type Options[T any] struct {
	Dir  string          // made if missing
	What string          // what the entries are called: "invocation records"
	ID   func(*T) string // tells entries apart
	// Append appends the JSON of an entry; default [json.Marshal].
	Append       func(text []byte, entry *T) []byte
	Ring         int          // entries in memory
	Segments     int          // files
	SegmentBytes int64        // size at which the next file begins
	Logger       *slog.Logger // told of losses; default slog.Default()
}

// Journal keeps entries of type T, whose JSON is one line.
type Journal[T any] struct {
	opt   Options[T]
	ring  []atomic.Pointer[placed[T]]
	added atomic.Uint64 // entries that ever got a place in ring

	queue  chan *T
	stop   chan struct{}
	closed atomic.Bool
	writer sync.WaitGroup
	lost   atomic.Uint64
	files  *segments
}

// placed is an entry and how many were added before it.
type placed[T any] struct {
	place uint64
	entry *T
}

// Open opens the journal in opt.Dir and begins to write to it. A line that was cut short by a crash is left out.
func Open[T any](opt Options[T]) (*Journal[T], error) {
	opt.Logger = cmp.Or(opt.Logger, slog.Default())
	if opt.Append == nil {
		opt.Append = marshal
	}
	files, err := openSegments(opt.Dir, opt.Segments, opt.SegmentBytes)
	if err != nil {
		return nil, fmt.Errorf("open the %s: %w", opt.What, err)
	}
	j := &Journal[T]{
		opt:   opt,
		ring:  make([]atomic.Pointer[placed[T]], opt.Ring),
		queue: make(chan *T, opt.Ring/2), // see View
		stop:  make(chan struct{}),
		files: files,
	}
	j.writer.Go(j.write)
	return j, nil
}

// Add keeps e, which must not change any more. It never blocks.
func (j *Journal[T]) Add(e *T) {
	place := j.added.Add(1) - 1
	j.ring[place%uint64(len(j.ring))].Store(&placed[T]{place, e})
	if j.closed.Load() {
		j.lost.Add(1)
		return
	}
	select {
	case j.queue <- e:
	default:
		j.lost.Add(1)
	}
}

// Lost counts the entries that were not written to a file.
func (j *Journal[T]) Lost() uint64 { return j.lost.Load() }

// Close writes what is queued and closes the files.
func (j *Journal[T]) Close() error {
	if j.closed.Swap(true) {
		return nil
	}
	close(j.stop)
	j.writer.Wait()
	return j.files.close()
}

// reportEvery bounds how often losses are logged.
const reportEvery = time.Minute

// gather is how long a batch collects entries: a wake-up and a write for each would cost an invocation more
// than all else that is done to observe it.
const gather = 50 * time.Millisecond

// write appends batches.
func (j *Journal[T]) write() {
	var (
		batch    = batch[T]{append: j.opt.Append}
		failure  error
		reported uint64
		last     time.Time
	)
	for {
		batch.reset()
		select {
		case e := <-j.queue:
			batch.add(e)
			if len(j.queue) < cap(j.queue)/8 {
				select {
				case <-time.After(gather):
				case <-j.stop:
				}
			}
		case <-j.stop:
		}
		batch.fill(j.queue, max(1, len(j.ring)/4))
		if batch.entries == 0 {
			return // stopped, and nothing is left
		}
		if err := j.files.append(batch.text); err != nil {
			failure = err
			j.lost.Add(uint64(batch.entries))
		}
		if lost := j.lost.Load(); lost != reported && time.Since(last) > reportEvery {
			j.opt.Logger.Warn(j.opt.What+" were not written", "lost", lost-reported, "err", failure)
			failure, reported, last = nil, lost, time.Now()
		}
	}
}

const maxBatch = 256 << 10 // bytes

// batch is entries as lines of JSON.
type batch[T any] struct {
	append  func([]byte, *T) []byte
	text    []byte
	entries int
}

func (b *batch[T]) reset() { b.text, b.entries = b.text[:0], 0 }

func (b *batch[T]) add(e *T) {
	b.text = append(b.append(b.text, e), '\n')
	b.entries++
}

func marshal[T any](text []byte, e *T) []byte {
	line, err := json.Marshal(e)
	if err != nil {
		panic(err) // an entry always marshals
	}
	return append(text, line...)
}

// fill adds what queue has, until there are most.
func (b *batch[T]) fill(queue <-chan *T, most int) {
	for b.entries < most && len(b.text) < maxBatch {
		select {
		case e := <-queue:
			b.add(e)
		default:
			return
		}
	}
}
