package logs

import (
	"bytes"
	"container/list"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"lambent"
	"lambent/observe/internal/lines"
)

// file is the one that a journal's lines are appended to.
type file struct {
	*os.File
	number int
	size   int64
	place  *list.Element // in writer.recent
}

// writer is the state of the goroutine that writes all files.
type writer struct {
	*Store
	recent  list.List // of *journal with an open file, the latest used first
	text    bytes.Buffer
	failing bool
}

// write carries out what journals have for it until the store is closed and nothing is left.
func (s *Store) write() {
	w := &writer{Store: s}
	for range s.wake {
		w.flush()
	}
	w.flush()
	for w.recent.Len() > 0 {
		w.close(w.recent.Front().Value.(*journal))
	}
}

func (w *writer) flush() {
	for {
		w.mu.Lock()
		dirty := w.dirty
		w.dirty = nil
		w.mu.Unlock()
		if len(dirty) == 0 {
			return
		}
		for _, j := range dirty {
			w.carryOut(j)
		}
	}
}

// carryOut does what j had to be done when it began.
func (w *writer) carryOut(j *journal) {
	j.mu.Lock()
	lines, lost, over := w.take(j)
	remove, upTo := j.remove, j.added
	j.remove, j.queued = false, false
	j.mu.Unlock()

	var err error
	if remove {
		err = w.remove(j)
	}
	if err == nil && len(lines)+lost+over > 0 {
		err = w.append(j, lines, lost, over)
	}
	w.report(err)

	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil {
		j.lost += lost + len(lines) + over
		w.lost.Add(uint64(len(lines)))
	}
	j.done = upTo
	if remove && err == nil {
		j.removed++
		if j.file == nil && !j.queued {
			j.dead = true // nothing is kept of a function that is gone
			w.journals.Delete(j.name)
		}
	}
	if j.changed != nil {
		close(j.changed)
		j.changed = nil
	}
}

// report logs the first of a row of failures.
func (w *writer) report(err error) {
	if err != nil && !w.failing {
		w.opt.Logger.Error("logs of functions are being lost", "err", err)
	}
	w.failing = err != nil
}

// append writes lines at the end of the journal's file, all or none, and says what was lost before and after.
func (w *writer) append(j *journal, lines []lambent.LogLine, lost, over int) error {
	if err := w.open(j); err != nil {
		return err
	}
	w.text.Reset()
	if lost > 0 {
		w.encode(notice(j.name, "%d lines are missing here: they could not be written", lost))
	}
	for _, line := range lines {
		w.encode(line)
	}
	if over > 0 {
		w.encode(notice(j.name, "%d lines are missing here: they came faster than they could be written", over))
	}
	if _, err := j.file.WriteAt(w.text.Bytes(), j.file.size); err != nil {
		return errors.Join(err, j.file.Truncate(j.file.size))
	}
	j.file.size += int64(w.text.Len())
	return nil
}

func (w *writer) encode(line lambent.LogLine) {
	enc := json.NewEncoder(&w.text)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(line); err != nil {
		panic(err) // a LogLine always marshals
	}
}

// open makes j.file the file to append to.
func (w *writer) open(j *journal) error {
	if j.file != nil {
		w.recent.MoveToFront(j.file.place)
		if j.file.size < w.opt.FileBytes {
			return nil
		}
		next := j.file.number + 1
		w.close(j)
		if err := w.openNumber(j, next); err != nil {
			return err
		}
		return w.prune(j)
	}
	numbers, err := w.files(j.name)
	if err != nil {
		return err
	}
	if len(numbers) == 0 {
		if err := w.root.MkdirAll(j.name.dir(), 0o700); err != nil {
			return err
		}
		numbers = []int{1}
	}
	return w.openNumber(j, numbers[len(numbers)-1])
}

// prune removes all files of j but the last two.
func (w *writer) prune(j *journal) error {
	numbers, err := w.files(j.name)
	if err != nil {
		return err
	}
	for _, number := range numbers[:max(0, len(numbers)-2)] {
		if err := w.root.Remove(fileName(j.name, number)); err != nil {
			return err
		}
	}
	return nil
}

// openNumber opens a file to append to, after its last whole line.
func (w *writer) openNumber(j *journal, number int) error {
	if w.recent.Len() >= w.opt.OpenFiles {
		w.close(w.recent.Back().Value.(*journal))
	}
	opened, err := w.root.OpenFile(fileName(j.name, number), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	size, err := lines.Trim(opened)
	if err != nil {
		opened.Close()
		return err
	}
	j.file = &file{File: opened, number: number, size: size, place: w.recent.PushFront(j)}
	return nil
}

func (w *writer) close(j *journal) {
	w.recent.Remove(j.file.place)
	j.file.Close()
	j.file = nil
}

func (w *writer) remove(j *journal) error {
	if j.file != nil {
		w.close(j)
	}
	err := w.root.RemoveAll(j.name.dir())
	_ = w.root.Remove(j.name.namespace) // goes when it was the last
	return err
}

const suffix = ".jsonl"

func fileName(n name, number int) string {
	return path.Join(n.dir(), fmt.Sprintf("%08d%s", number, suffix))
}

// files gives the numbers of a function's files, ascending.
func (s *Store) files(n name) ([]int, error) {
	entries, err := fs.ReadDir(s.root.FS(), n.dir())
	if err != nil {
		return nil, ignoreMissing(err)
	}
	var numbers []int
	for _, entry := range entries {
		if number, err := strconv.Atoi(strings.TrimSuffix(entry.Name(), suffix)); err == nil {
			numbers = append(numbers, number)
		}
	}
	return numbers, nil // ReadDir sorts by name
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
