package logs

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
	"slices"
	"time"

	"lambent"
)

// Query says which lines of a function to read.
type Query struct {
	Namespace, Function string
	Tail                int       // how many of the latest lines to begin with; negative for all
	Follow              bool      // go on with new lines until the context or the store ends, or the logs are removed
	Invocation          string    // only lines of this invocation, unless ""
	Since               time.Time // only lines from then on, unless zero
}

// Read gives lines in the order in which they were added. The sequence ends early with an error.
func (s *Store) Read(ctx context.Context, q Query) iter.Seq2[lambent.LogLine, error] {
	return func(yield func(lambent.LogLine, error) bool) {
		n := name{q.Namespace, q.Function}
		if err := n.check(); err != nil {
			yield(lambent.LogLine{}, err)
			return
		}
		j := s.lock(n)
		added, removed := j.added, j.removed
		j.mu.Unlock()
		s.await(j, added, ctx.Done())

		r := &reader{store: s, query: q, name: n, mark: []byte(q.Invocation)}
		defer r.close()
		if !r.history(yield) {
			return
		}
		for q.Follow {
			j.mu.Lock()
			gone, changed := j.removed != removed, j.watch()
			j.mu.Unlock()
			if gone {
				return
			}
			if !r.give(yield) {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			case <-s.stop:
				return
			}
		}
	}
}

// reader goes through a function's files, a line at a time.
type reader struct {
	store *Store
	query Query
	name  name
	mark  []byte // what a line must hold to be worth decoding

	number int // of the file being read; 0 before the first
	file   *os.File
	lines  *bufio.Reader
}

// history gives the last lines of what is there.
func (r *reader) history(yield func(lambent.LogLine, error) bool) bool {
	if r.query.Tail < 0 {
		return r.give(yield)
	}
	var tail []lambent.LogLine // a ring once it is full
	first := 0
	_, err := r.rest(func(line lambent.LogLine) bool {
		switch {
		case len(tail) < r.query.Tail:
			tail = append(tail, line)
		case len(tail) > 0:
			tail[first] = line
			first = (first + 1) % len(tail)
		}
		return true
	})
	for _, line := range slices.Concat(tail[first:], tail[:first]) {
		if !yield(line, nil) {
			return false
		}
	}
	if err != nil {
		r.fail(err, yield)
	}
	return err == nil
}

// fail yields err, unless it is only that the store was closed, which ends those who follow.
func (r *reader) fail(err error, yield func(lambent.LogLine, error) bool) {
	select {
	case <-r.store.stop:
		if r.query.Follow {
			return
		}
		err = errClosed
	default:
	}
	yield(lambent.LogLine{}, err)
}

// give yields the rest as it is read.
func (r *reader) give(yield func(lambent.LogLine, error) bool) bool {
	more, err := r.rest(func(line lambent.LogLine) bool { return yield(line, nil) })
	if err != nil {
		r.fail(err, yield)
	}
	return more
}

// rest gives the matching lines from where the reader is to the end of the last file. more is false when
// take has had enough, or with an error.
func (r *reader) rest(take func(lambent.LogLine) bool) (more bool, err error) {
	for {
		// The next file is looked for before this one is read to its end: if it is there, this one is
		// complete by now.
		next, skipped, err := r.next()
		if err != nil {
			return false, err
		}
		if r.file != nil {
			if more, err := r.readFile(take); !more {
				return false, err
			}
		}
		if next == nil {
			return true, nil
		}
		if r.file != nil {
			r.file.Close()
		}
		r.number, r.file, r.lines = next.number, next.File, bufio.NewReaderSize(next.File, 64<<10)
		if skipped && !take(notice(r.name, "lines are missing here: they were written faster than read")) {
			return false, nil
		}
	}
}

// next opens the file after the present one, nil when there is none yet. skipped tells that there was one in
// between, removed in the meantime.
func (r *reader) next() (next *file, skipped bool, err error) {
	for range 8 { // a file may go between its listing and its opening, but hardly again and again
		numbers, err := r.store.files(r.name)
		if err != nil {
			return nil, false, err
		}
		i, _ := slices.BinarySearch(numbers, r.number+1)
		if i == len(numbers) {
			return nil, false, nil
		}
		opened, err := r.store.root.Open(fileName(r.name, numbers[i]))
		if err == nil {
			return &file{File: opened, number: numbers[i]}, r.number > 0 && numbers[i] > r.number+1, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, false, err
		}
	}
	return nil, false, errors.New("the log files change faster than they can be opened")
}

// readFile gives the matching lines up to the end of the present file.
func (r *reader) readFile(take func(lambent.LogLine) bool) (more bool, err error) {
	for {
		raw, err := r.lines.ReadBytes('\n')
		if err == io.EOF {
			// What there is of a line is read again: its rest is still to come, or it is taken back because it
			// did not fit on the disk.
			_, err := r.file.Seek(-int64(len(raw)), io.SeekCurrent)
			r.lines.Reset(r.file)
			return err == nil, err
		}
		if err != nil {
			return false, err
		}
		if line, ok := r.match(raw); ok && !take(line) {
			return false, nil
		}
	}
}

// match decodes a line if it is asked for. One that is damaged is left out.
func (r *reader) match(raw []byte) (line lambent.LogLine, ok bool) {
	if !bytes.Contains(raw, r.mark) || json.Unmarshal(raw, &line) != nil {
		return line, false
	}
	q := &r.query
	if q.Invocation != "" && line.Invocation != q.Invocation && !slices.Contains(line.InFlight, q.Invocation) {
		return line, false
	}
	return line, !line.Time.Before(q.Since)
}

func (r *reader) close() {
	if r.file != nil {
		r.file.Close()
	}
}
