package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math"
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

	mu   sync.Mutex // guards end, which only the writer changes
	end  end
	file *os.File
}

// end is how far the files went at some moment: all but the last were complete.
type end struct {
	starts []int64 // of the files, ascending; never changed in place
	size   int64   // of the last
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
			s.end.starts = append(s.end.starts, start)
		}
	}
	slices.Sort(s.end.starts)
	if len(s.end.starts) == 0 {
		return s, s.next()
	}
	s.file, s.end.size, err = s.open(s.end.starts[len(s.end.starts)-1])
	return s, err
}

func (s *segments) path(start int64) string {
	return filepath.Join(s.dir, fmt.Sprintf("%015d%s", start, suffix))
}

// open opens the file that began at start, to append after its last whole line.
func (s *segments) open(start int64) (file *os.File, size int64, err error) {
	file, err = os.OpenFile(s.path(start), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, 0, err
	}
	size, err = lines.Trim(file)
	if err != nil {
		file.Close()
		return nil, 0, err
	}
	return file, size, nil
}

// append writes text at the end. When it fails nothing of text stays.
func (s *segments) append(text []byte) error {
	if s.end.size >= s.bytes {
		if err := s.next(); err != nil {
			return err
		}
	}
	if _, err := s.file.WriteAt(text, s.end.size); err != nil {
		return errors.Join(err, s.file.Truncate(s.end.size))
	}
	s.move(end{s.end.starts, s.end.size + int64(len(text))})
	return nil
}

// next begins a file and removes those that are too many.
func (s *segments) next() error {
	start := time.Now().UnixMilli()
	if n := len(s.end.starts); n > 0 {
		start = max(start, s.end.starts[n-1]+1) // the clock may have been set back
	}
	file, size, err := s.open(start)
	if err != nil {
		return err
	}
	if s.file != nil {
		s.file.Close()
	}
	s.file = file
	starts := append(slices.Clone(s.end.starts), start)
	surplus := starts[:max(0, len(starts)-s.keep)]
	s.move(end{starts[len(surplus):], size})
	for _, start := range surplus {
		if err := os.Remove(s.path(start)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (s *segments) close() error { return s.file.Close() }

func (s *segments) move(to end) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end = to
}

// mark is the end of what was written until now.
func (s *segments) mark() end {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.end
}

// backwards gives the lines before end that hold mark, the last first, without those of files that were complete
// before since, in Unix milliseconds.
func (s *segments) backwards(end end, mark []byte, since int64) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		size := end.size
		for i, start := range slices.Backward(end.starts) {
			if i+1 < len(end.starts) && end.starts[i+1] < since {
				return
			}
			for line := range s.lines(start, size, mark) {
				if !yield(line) {
					return
				}
			}
			size = math.MaxInt64
		}
	}
}

// lines gives the lines in the first size bytes of a file that hold mark, the last first. Of a file that is gone
// there are none.
func (s *segments) lines(start, size int64, mark []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		text, err := os.ReadFile(s.path(start))
		if err != nil {
			return
		}
		text = text[:min(size, int64(len(text)))]
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
