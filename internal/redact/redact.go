// Package redact takes known values out of text.
package redact

import (
	"slices"
	"strings"
)

// Mask is what stands in the place of a value.
const Mask = "***"

// shortest is the length of the shortest value that is taken out: shorter ones would be found where nobody put them.
const shortest = 8

// Redactor takes values out of text. It knows each value as a whole and, because text often comes line by line,
// each line of it; it does not know a value that was encoded, compressed or cut into pieces.
type Redactor struct{ values []string }

// New makes a Redactor. It is nil, which leaves everything as it is, when none of the values has 8 bytes.
func New(values []string) *Redactor {
	var out []string
	for _, value := range values {
		for _, part := range append(strings.FieldsFunc(value, func(r rune) bool { return r == '\n' || r == '\r' }), value) {
			if len(part) >= shortest && !slices.Contains(out, part) {
				out = append(out, part)
			}
		}
	}
	if out == nil {
		return nil
	}
	return &Redactor{out}
}

type span struct{ start, end int }

// String gives text with a [Mask] in the place of the values; where values overlap, one for all of them.
func (r *Redactor) String(text string) string {
	if r == nil {
		return text
	}
	var found []span
	for _, value := range r.values {
		for at := 0; ; {
			i := strings.Index(text[at:], value)
			if i < 0 {
				break
			}
			start := at + i
			if last := len(found) - 1; last >= 0 && start > found[last].start && start < found[last].end {
				found[last].end = max(found[last].end, start+len(value)) // one that repeats itself
			} else {
				found = append(found, span{start, start + len(value)})
			}
			at = start + 1
		}
	}
	if found == nil {
		return text
	}
	slices.SortFunc(found, func(a, b span) int { return a.start - b.start })
	var out strings.Builder
	end := 0
	for i, s := range found {
		if i == 0 || s.start >= end {
			out.WriteString(text[end:s.start])
			out.WriteString(Mask)
		}
		end = max(end, s.end)
	}
	out.WriteString(text[end:])
	return out.String()
}
