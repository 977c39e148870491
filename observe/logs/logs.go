// Package logs keeps what functions write: per function, append-only files of JSON lines, the older half
// removed when they grow past their bound. A function that writes nothing has no file.
//
// Invariants, proved in logs_test.go:
//   - Add never waits for the disk. What cannot be kept is counted, and a line of stream "lambent" says so
//     in its place, with the next lines that can be written.
//   - The files are all that readers read: a reader that follows sees every line once, in order, across
//     rotations, and one that is too slow is told what it missed, and never holds up the writer.
//   - What was added before Read was called is read.
package logs

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"lambent"
)

// Options configures a Store. The zero value of a field but Dir means its default.
type Options struct {
	Dir       string       // made if missing
	FileBytes int64        // size at which a function's next file begins; two are kept; default 4 MiB
	Pending   int          // bytes of one function's lines that may wait to be written; default 1 MiB
	OpenFiles int          // files held open for writing; default 256
	Logger    *slog.Logger // told once when writing begins to fail; default slog.Default()
}

func (o *Options) setDefaults() {
	o.FileBytes = cmp.Or(o.FileBytes, 4<<20)
	o.Pending = cmp.Or(o.Pending, 1<<20)
	o.OpenFiles = cmp.Or(o.OpenFiles, 256)
	o.Logger = cmp.Or(o.Logger, slog.Default())
}

// maxPending bounds in bytes what waits to be written of all functions together.
const maxPending = 64 << 20

// StreamLambent is the stream of lines that the platform says.
const StreamLambent = "lambent"

// Store keeps the lines of all functions.
type Store struct {
	opt      Options
	root     *os.Root // whatever a function's name is, nothing outside is touched
	journals sync.Map // name -> *journal
	pending  atomic.Int64
	lost     atomic.Uint64

	mu     sync.Mutex // guards what follows; taken after a journal's lock, never before
	dirty  []*journal // with work for the writer, each once
	wake   chan struct{}
	closed bool

	stop   chan struct{} // closed by Close, for readers
	writer sync.WaitGroup
}

type name struct{ namespace, function string }

func (n name) dir() string { return n.namespace + "/" + n.function }

// journal is one function's lines on their way to its files.
type journal struct {
	name name

	mu      sync.Mutex
	lines   []lambent.LogLine // waiting
	bytes   int               // of lines
	lost    int               // before lines, not said yet
	over    int               // after lines, not said yet
	queued  bool              // in Store.dirty
	remove  bool              // the files are to be removed before lines are written
	dead    bool              // replaced by another journal of that name
	added   uint64            // lines and removals ever asked for
	done    uint64            // those of them that are carried out, or lost
	removed int               // how many times the files were removed
	changed chan struct{}     // closed at the next change of done; nil while nobody waits

	file *file // the writer's
}

// Open opens the store in opt.Dir and begins to write to it.
func Open(opt Options) (*Store, error) {
	s, err := newStore(opt)
	if err != nil {
		return nil, fmt.Errorf("open the logs: %w", err)
	}
	s.writer.Go(s.write)
	return s, nil
}

func newStore(opt Options) (*Store, error) {
	opt.setDefaults()
	if err := os.MkdirAll(opt.Dir, 0o700); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(opt.Dir)
	if err != nil {
		return nil, err
	}
	return &Store{opt: opt, root: root, wake: make(chan struct{}, 1), stop: make(chan struct{})}, nil
}

// lock gives the locked journal of a function.
func (s *Store) lock(n name) *journal {
	for {
		v, ok := s.journals.Load(n)
		if !ok {
			v, _ = s.journals.LoadOrStore(n, &journal{name: n})
		}
		j := v.(*journal)
		j.mu.Lock()
		if !j.dead {
			return j
		}
		j.mu.Unlock()
	}
}

// Add keeps line. It never blocks: a line that finds too many waiting is lost.
func (s *Store) Add(line lambent.LogLine) {
	j := s.lock(name{line.Namespace, line.Function})
	defer j.mu.Unlock()
	j.added++
	size := len(line.Text) + 256 // about what a LogLine takes in memory
	if !s.schedule(j) || j.bytes+size > s.opt.Pending || s.pending.Load()+int64(size) > maxPending {
		j.over++
		s.lost.Add(1)
		return
	}
	j.lines = append(j.lines, line)
	j.bytes += size
	s.pending.Add(int64(size))
}

// Lost counts the lines that were not kept, of all functions.
func (s *Store) Lost() uint64 { return s.lost.Load() }

// schedule hands j, which is locked, to the writer. It gives false when the store is closed.
func (s *Store) schedule(j *journal) bool {
	if j.queued {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	j.queued = true
	s.dirty = append(s.dirty, j)
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return true
}

// errClosed is what a store that was closed says.
var errClosed = errors.New("the log store is closed")

// Remove removes what a function wrote, and ends the readers that follow it.
func (s *Store) Remove(namespace, function string) error {
	n := name{namespace, function}
	if err := n.check(); err != nil {
		return err
	}
	j := s.lock(n)
	s.take(j)
	j.remove = true
	j.added++
	want := j.added
	ok := s.schedule(j)
	j.mu.Unlock()
	if !ok {
		return errClosed
	}
	s.await(j, want, nil)
	if _, err := s.root.Stat(n.dir()); err == nil {
		return fmt.Errorf("the logs of %s could not be removed", n.dir())
	}
	return nil
}

// Names gives the namespace and name of every function that has written something, as far as the folders can be read.
func (s *Store) Names() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		namespaces, _ := fs.ReadDir(s.root.FS(), ".")
		for _, namespace := range namespaces {
			functions, _ := fs.ReadDir(s.root.FS(), namespace.Name())
			for _, function := range functions {
				if !yield(namespace.Name(), function.Name()) {
					return
				}
			}
		}
	}
}

func (n name) check() error {
	if err := lambent.CheckName("namespace", n.namespace); err != nil {
		return err
	}
	return lambent.CheckName("function", n.function)
}

// take gives what waits in j, which is locked: lines, and how many were lost before and after them.
func (s *Store) take(j *journal) (lines []lambent.LogLine, lost, over int) {
	lines, lost, over = j.lines, j.lost, j.over
	s.pending.Add(int64(-j.bytes))
	j.lines, j.bytes, j.lost, j.over = nil, 0, 0, 0
	return lines, lost, over
}

// await returns when j has carried out want, or the store or done is closed.
func (s *Store) await(j *journal, want uint64, done <-chan struct{}) {
	for {
		j.mu.Lock()
		reached, changed := j.done >= want, j.watch()
		j.mu.Unlock()
		if reached {
			return
		}
		select {
		case <-changed:
		case <-done:
			return
		case <-s.stop:
			return
		}
	}
}

// watch gives a channel that is closed at the next change of j, which is locked.
func (j *journal) watch() <-chan struct{} {
	if j.changed == nil {
		j.changed = make(chan struct{})
	}
	return j.changed
}

// Close writes what waits and ends all readers.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	close(s.wake)
	s.mu.Unlock()
	s.writer.Wait()
	close(s.stop)
	return s.root.Close()
}

// notice is a line that the platform says of a function.
func notice(n name, format string, args ...any) lambent.LogLine {
	return lambent.LogLine{
		Time: time.Now(), Namespace: n.namespace, Function: n.function, Stream: StreamLambent,
		Text: fmt.Sprintf(format, args...),
	}
}
