package journal

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// down is the keys from high to low.
func down(high, low int) string {
	var all []string
	for n := high; n >= low; n-- {
		all = append(all, fmt.Sprint(n))
	}
	return strings.Join(all, " ")
}

// What is added after a view, and may be in a file at once, is no part of it; what leaves memory stays in it.
func TestViewStays(t *testing.T) {
	const ring = 64
	for _, before := range []int{0, ring / 2, 3 * ring} {
		for _, after := range []int{1, ring / 2, 3 * ring} {
			t.Run(fmt.Sprint(before, " and ", after), func(t *testing.T) {
				opt := Options[entry]{Dir: t.TempDir(), Ring: ring, Segments: 100, SegmentBytes: 3000}
				j := fill(t, open(t, opt), 0, before)
				v := j.View()
				fill(t, j, before, after)
				shut(t, j)
				if got := keys(v, "", time.Time{}); got != down(before-1, 0) {
					t.Errorf("the view has %q", got)
				}
				if got := keys(j.View(), "", time.Time{}); got != down(before+after-1, 0) {
					t.Errorf("the next view has %q", got)
				}
			})
		}
	}
}

// fill adds n entries that begin with first, none of which is lost.
func fill(t *testing.T, j *Journal[entry], first, n int) *Journal[entry] {
	t.Helper()
	for i := range n {
		for len(j.queue) == cap(j.queue) {
			time.Sleep(time.Millisecond)
		}
		j.Add(sample(first + i))
	}
	if j.Lost() > 0 {
		t.Fatalf("lost %d", j.Lost())
	}
	return j
}

// Entries are added between the end of the files and the look at memory. Those that were in no file are missing
// only from a view that says so.
func TestViewIsWhole(t *testing.T) {
	const ring, before = 64, 200
	for _, between := range []int{0, 1, ring / 4, ring/4 + 1, ring} {
		j := open(t, Options[entry]{Dir: t.TempDir(), Ring: ring, Segments: 100, SegmentBytes: 3000})
		fill(t, j, 0, before)
		added, end := j.added.Load(), j.files.mark()
		fill(t, j, before, between)
		v, whole := j.view(added, end)
		shut(t, j)
		if whole != (between <= ring/4) {
			t.Errorf("%d: whole is %v", between, whole)
		}
		if got := keys(v, "", time.Time{}); whole && got != down(before+between-1, 0) {
			t.Errorf("%d: the view has %q", between, got)
		}
	}
}

// An entry whose place is taken, but which is not there yet, does not let another be taken for it.
func TestViewOfAnEmptyPlace(t *testing.T) {
	j := fill(t, open(t, Options[entry]{Dir: t.TempDir(), Ring: 64, Segments: 8, SegmentBytes: 1 << 20}), 0, 64)
	j.added.Add(1)
	shut(t, j)
	if got := keys(j.View(), "", time.Time{}); got != down(63, 0) {
		t.Errorf("got %q", got)
	}
}
