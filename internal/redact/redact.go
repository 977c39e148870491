// Package redact takes known values out of text.
package redact

import (
	"cmp"
	"iter"
	"slices"
	"strings"
)

// Mask is what stands in the place of a value.
const Mask = "***"

const (
	shortest   = 8       // bytes of a part: shorter ones would be found where nobody put them
	longest    = 64      // so that a look at one place of a text is short
	maxParts   = 1 << 14 // about 1 MiB of values
	filterBits = 1 << 12
)

// Redactor takes values out of text. It knows each value as a whole and, because text often comes line by line,
// each line of it, long ones in pieces of 64 bytes. It does not know a value that was encoded, compressed or cut into
// other pieces, nor, where values are more than 16384 such pieces, what is left of the longest ones.
//
// Text may be made to take as long as possible, and comes in any amount: for each byte there is a binary search among
// at most that many pieces, and most often not even that.
type Redactor struct {
	parts  []string                // sorted
	begins []int                   // for each part, the longest of the others that it begins with, or -1
	filter [filterBits / 64]uint64 // has the bit of each part's first 8 bytes
}

// New makes a Redactor. It is nil, which leaves everything as it is, when none of the values has 8 bytes.
func New(values []string) *Redactor {
	r := new(Redactor)
	r.collect(slices.SortedFunc(slices.Values(values), func(a, b string) int { return cmp.Compare(len(a), len(b)) }))
	if r.parts == nil {
		return nil
	}
	slices.Sort(r.parts)
	r.parts = slices.Compact(r.parts)
	r.begins = make([]int, len(r.parts))
	for i, part := range r.parts {
		begin := i - 1
		for begin >= 0 && !strings.HasPrefix(part, r.parts[begin]) {
			begin = r.begins[begin]
		}
		r.begins[i] = begin
		var head uint64
		for _, b := range []byte(part[:shortest]) {
			head = push(head, b)
		}
		at, bit := place(head)
		r.filter[at] |= bit
	}
	return r
}

func (r *Redactor) collect(values []string) {
	for _, value := range values {
		for part := range split(value) {
			if len(r.parts) == maxParts {
				return
			}
			r.parts = append(r.parts, part)
		}
	}
}

// split gives the parts of a value.
func split(value string) iter.Seq[string] {
	isEnd := func(c rune) bool { return c == '\n' || c == '\r' }
	return func(yield func(string) bool) {
		for line := range strings.FieldsFuncSeq(value, isEnd) {
			if !pieces(line, yield) {
				return
			}
		}
		if strings.ContainsFunc(value, isEnd) {
			pieces(value, yield)
		}
	}
}

// pieces cuts a line. The last two pieces overlap, so that none is short because the line is long.
func pieces(line string, yield func(string) bool) bool {
	for ; len(line) > longest; line = line[min(longest, len(line)-longest):] {
		if !yield(line[:longest]) {
			return false
		}
	}
	return len(line) < shortest || yield(line)
}

// String gives text with a [Mask] in the place of the values; where values overlap or touch, one for all of them.
func (r *Redactor) String(text string) string {
	if r == nil {
		return text
	}
	var out strings.Builder
	var head uint64
	end := -1 // of what was taken out last
	for i := range len(text) {
		head = push(head, text[i])
		start := i + 1 - shortest
		if at, bit := place(head); start < 0 || r.filter[at]&bit == 0 {
			continue
		}
		n := r.match(text[start:])
		if n == 0 || start+n <= end {
			continue
		}
		if start > end {
			out.WriteString(text[max(end, 0):start])
			out.WriteString(Mask)
		}
		end = start + n
	}
	if end < 0 {
		return text
	}
	out.WriteString(text[end:])
	return out.String()
}

// match gives the length of the longest part that text begins with, or 0. In their order, it is the last part that is
// not behind text, or one that this begins with.
func (r *Redactor) match(text string) int {
	text = text[:min(len(text), longest)]
	last, found := slices.BinarySearch(r.parts, text)
	if found {
		return len(text)
	}
	last--
	if last < 0 {
		return 0
	}
	same := 0
	for same < len(r.parts[last]) && same < len(text) && r.parts[last][same] == text[same] {
		same++
	}
	for last >= 0 && len(r.parts[last]) > same {
		last = r.begins[last]
	}
	if last < 0 {
		return 0
	}
	return len(r.parts[last])
}

// push gives the 8 bytes that end with b, after those before it.
func push(head uint64, b byte) uint64 { return head>>8 | uint64(b)<<56 }

// place gives the word and the bit of a filter that 8 bytes have, by Fibonacci hashing.
func place(head uint64) (at int, bit uint64) {
	hash := head * 0x9E3779B97F4A7C15 >> 32 % filterBits
	return int(hash / 64), 1 << (hash % 64)
}
