package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"lambent/observe/internal/lines"
)

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

// backwards gives the lines that hold mark, the last first, without those of files that were complete before since,
// in Unix milliseconds.
func (s *segments) backwards(mark []byte, since int64) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		starts := s.list()
		for i, start := range slices.Backward(starts) {
			if i+1 < len(starts) && starts[i+1] < since {
				return
			}
			for line := range s.lines(start, mark) {
				if !yield(line) {
					return
				}
			}
		}
	}
}

// lines gives the lines of a file that hold mark, the last first. Of a file that is gone there are none.
func (s *segments) lines(start int64, mark []byte) iter.Seq[[]byte] {
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
