package record

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"lambent"
	"lambent/observe/internal/lines"
)

const maxBatch = 256 << 10 // bytes

// batch is records as lines of JSON.
type batch struct {
	text    []byte
	records int
}

func (b *batch) reset() { b.text, b.records = b.text[:0], 0 }

func (b *batch) add(r *lambent.Record) {
	line, err := json.Marshal(r)
	if err != nil {
		panic(err) // a Record always marshals
	}
	b.text = append(append(b.text, line...), '\n')
	b.records++
}

// fill adds what queue has, up to a bound.
func (b *batch) fill(queue <-chan *lambent.Record) {
	for len(b.text) < maxBatch {
		select {
		case r := <-queue:
			b.add(r)
		default:
			return
		}
	}
}

// segments is a row of append-only files. Each is named for the Unix millisecond at which it began, so that
// the time in an id tells where to begin to look for it.
type segments struct {
	dir   string
	keep  int
	bytes int64

	mu     sync.Mutex // guards starts, which readers copy; the rest is the writer's
	starts []int64    // ascending
	file   *os.File
	size   int64
}

const suffix = ".jsonl"

func openSegments(dir string, keep int, size int64) (*segments, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	s := &segments{dir: dir, keep: keep, bytes: size}
	for _, entry := range entries {
		if start, err := strconv.ParseInt(strings.TrimSuffix(entry.Name(), suffix), 10, 64); err == nil {
			s.starts = append(s.starts, start)
		}
	}
	slices.Sort(s.starts)
	if len(s.starts) == 0 {
		return s, s.next()
	}
	return s, s.open(s.starts[len(s.starts)-1])
}

func (s *segments) path(start int64) string {
	return filepath.Join(s.dir, fmt.Sprintf("%015d%s", start, suffix))
}

// open makes the file that began at start the one to append to, after its last whole line.
func (s *segments) open(start int64) error {
	file, err := os.OpenFile(s.path(start), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	size, err := lines.Trim(file)
	if err != nil {
		file.Close()
		return err
	}
	s.file, s.size = file, size
	return nil
}

// append writes text at the end. When it fails nothing of text stays.
func (s *segments) append(text []byte) error {
	if s.size >= s.bytes {
		if err := s.next(); err != nil {
			return err
		}
	}
	if _, err := s.file.WriteAt(text, s.size); err != nil {
		return errors.Join(err, s.file.Truncate(s.size))
	}
	s.size += int64(len(text))
	return nil
}

// next begins a file and removes those that are too many.
func (s *segments) next() error {
	start := time.Now().UnixMilli()
	if n := len(s.starts); n > 0 {
		start = max(start, s.starts[n-1]+1) // the clock may have been set back
	}
	old := s.file
	if err := s.open(start); err != nil {
		return err
	}
	if old != nil {
		old.Close()
	}
	s.mu.Lock()
	starts := append(slices.Clone(s.starts), start)
	surplus := starts[:max(0, len(starts)-s.keep)]
	s.starts = starts[len(surplus):]
	s.mu.Unlock()
	for _, start := range surplus {
		if err := os.Remove(s.path(start)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (s *segments) close() error { return s.file.Close() }

func (s *segments) list() []int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.starts
}

// get looks for a record. It is written when its invocation has ended, so no file that had ended when
// the invocation was accepted can have it.
func (s *segments) get(id string) (r lambent.Record, ok bool) {
	accepted, ok := milliseconds(id)
	if !ok {
		return r, false
	}
	starts := s.list()
	for i, start := range starts {
		if i+1 < len(starts) && starts[i+1] < accepted {
			continue
		}
		for line := range s.lines(start, []byte(id)) {
			if json.Unmarshal(line, &r) == nil && r.ID == id {
				return r, true
			}
		}
	}
	return lambent.Record{}, false
}

// backwards gives the records of a function, the latest first.
func (s *segments) backwards(namespace, function string, yield func(*lambent.Record) bool) {
	mark := []byte(namespace)
	if function != "" {
		mark = fmt.Appendf(nil, `"function":%q`, function)
	}
	for _, start := range slices.Backward(s.list()) {
		for line := range s.lines(start, mark) {
			var r lambent.Record
			if json.Unmarshal(line, &r) == nil && !yield(&r) {
				return
			}
		}
	}
}

// lines gives the lines of a file that hold mark, the last first. Of a file that is gone there are none.
func (s *segments) lines(start int64, mark []byte) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		text, err := os.ReadFile(s.path(start))
		if err != nil {
			return
		}
		for len(text) > 0 {
			text = bytes.TrimSuffix(text, []byte("\n"))
			i := bytes.LastIndexByte(text, '\n') + 1
			if line := text[i:]; bytes.Contains(line, mark) && !yield(line) {
				return
			}
			text = text[:i]
		}
	}
}

// milliseconds gives the time of a UUIDv7.
func milliseconds(id string) (int64, bool) {
	if len(id) != 36 {
		return 0, false
	}
	var raw [8]byte
	if _, err := hex.Decode(raw[2:], []byte(id[:8]+id[9:13])); err != nil {
		return 0, false
	}
	return int64(binary.BigEndian.Uint64(raw[:])), true
}
