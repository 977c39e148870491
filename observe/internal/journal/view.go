package journal

import (
	"encoding/json"
	"iter"
	"time"
)

// View is what a journal had at one moment.
type View[T any] struct {
	memory []*T // the latest first
	files  *segments
	end    end // what is later in the files is no part of the view
	id     func(*T) string
}

// maxViews bounds how often a view is begun.
const maxViews = 10

// View gives what the journal has. An entry that is being added meanwhile may be left out.
//
// The end of the files is taken first, and what lies after it is in memory: unless entries were lost, at most half
// of the ring is queued and a quarter in the batch that is written. So nothing is missing when no more than the last
// quarter was added until memory was read.
func (j *Journal[T]) View() View[T] {
	v, whole := j.view(j.added.Load(), j.files.mark())
	for range maxViews - 1 {
		if whole {
			break
		}
		v, whole = j.view(j.added.Load(), j.files.mark())
	}
	return v
}

// view is of memory and the files up to end; whole tells whether memory has what is after it, when added is how many
// there had been before. It looks through all of memory rather than in an index: that takes well under a millisecond,
// and an index would cost whoever adds an entry a shared lock.
func (j *Journal[T]) view(added uint64, end end) (v View[T], whole bool) {
	size, next := uint64(len(j.ring)), j.added.Load()
	v = View[T]{make([]*T, 0, min(size, next)), j.files, end, j.opt.ID}
	for back := range min(size, next) {
		place := next - 1 - back
		if p := j.ring[place%size].Load(); p != nil && p.place == place {
			v.memory = append(v.memory, p.entry)
		}
	}
	return v, j.added.Load()-added <= size/4
}

// Latest gives up to limit entries that want takes, the latest first and each once. Of the files it reads only lines
// that hold mark, and none that were complete before since.
func (v View[T]) Latest(limit int, mark []byte, since time.Time, want func(*T) bool) []T {
	if limit <= 0 {
		return nil
	}
	var found []T
	seen := map[string]bool{}
	for e := range v.entries(mark, since) {
		if id := v.id(e); want(e) && !seen[id] {
			seen[id] = true
			if found = append(found, *e); len(found) == limit {
				break
			}
		}
	}
	return found
}

// entries gives those in memory, then those in the files, among which the former may be again.
func (v View[T]) entries(mark []byte, since time.Time) iter.Seq[*T] {
	return func(yield func(*T) bool) {
		for _, e := range v.memory {
			if !yield(e) {
				return
			}
		}
		for line := range v.files.backwards(v.end, mark, since.UnixMilli()) {
			e := new(T)
			if json.Unmarshal(line, e) == nil && !yield(e) {
				return
			}
		}
	}
}
