package main

import (
	"bufio"
	"bytes"
	"cmp"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	vocabulary = 1 << 16 // distinct words that are told apart at a time
	maxWord    = 64      // bytes of a word that count for telling it from others
	topWords   = 10
)

// Counts is what is known of a text.
type Counts struct {
	Bytes int64  `json:"bytes"`
	Lines int64  `json:"lines"` // the last one counts without its line end too
	Words int64  `json:"words"`
	Top   []Word `json:"top"`
	// Undercount is by how much a count in Top may be too low: 0 unless the text has more distinct words
	// than the vocabulary, and never more than Words divided by its size.
	Undercount int64 `json:"undercount,omitempty"`
}

// Word is a word in lower case and how often it came.
type Word struct {
	Word  string `json:"word"`
	Count int64  `json:"count"`
}

// count reads a UTF-8 text to its end. A word is a run of letters, digits, marks and inner apostrophes.
func count(text io.Reader) (Counts, error) {
	var (
		c    Counts
		tab  = table{counts: map[string]*int64{}}
		word = make([]byte, 0, maxWord+utf8.UTFMax)
		in   = bufio.NewReaderSize(text, 64<<10)
		last rune
	)
	flush := func() {
		if trimmed := bytes.Trim(word, "'"); len(trimmed) > 0 {
			c.Words++
			tab.add(trimmed)
		}
		word = word[:0]
	}
	for {
		r, size, err := in.ReadRune()
		if err == io.EOF {
			break
		}
		if err != nil {
			return c, err
		}
		c.Bytes += int64(size)
		if r == '\n' {
			c.Lines++
		}
		last = r
		switch {
		case !partOfWord(r):
			flush()
		case len(word) < maxWord:
			word = utf8.AppendRune(word, unicode.ToLower(r))
		}
	}
	flush()
	if c.Bytes > 0 && last != '\n' {
		c.Lines++
	}
	c.Top, c.Undercount = tab.top(topWords), tab.decrements
	return c, nil
}

func partOfWord(r rune) bool {
	if r < utf8.RuneSelf {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '\''
	}
	return unicode.In(r, unicode.L, unicode.Nd, unicode.M)
}

// table counts words in bounded memory after J. Misra and D. Gries, "Finding repeated elements" (1982): when
// a new word finds the table full, every count is lowered by one and the words at zero leave. A lowering
// takes one from each of as many words as the table holds, so there are few, and a word that makes up more
// of the text than one in that many is always there at the end.
type table struct {
	counts     map[string]*int64
	decrements int64
}

func (t *table) add(word []byte) {
	if n := t.counts[string(word)]; n != nil {
		*n++
		return
	}
	if len(t.counts) < vocabulary {
		n := int64(1)
		t.counts[string(word)] = &n
		return
	}
	t.decrements++
	for word, n := range t.counts {
		if *n--; *n == 0 {
			delete(t.counts, word)
		}
	}
}

func (t *table) top(n int) []Word {
	words := make([]Word, 0, len(t.counts))
	for word, n := range t.counts {
		words = append(words, Word{word, *n})
	}
	slices.SortFunc(words, func(a, b Word) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), strings.Compare(a.Word, b.Word))
	})
	return words[:min(n, len(words))]
}
