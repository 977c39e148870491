package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
)

func TestCount(t *testing.T) {
	long := strings.Repeat("x", 100)
	for _, c := range []struct {
		text string
		want Counts
	}{
		{"", Counts{Top: []Word{}}},
		{"\n", Counts{Bytes: 1, Lines: 1, Top: []Word{}}},
		{"one", Counts{Bytes: 3, Lines: 1, Words: 1, Top: []Word{{"one", 1}}}},
		{"b a B\nA b", Counts{Bytes: 9, Lines: 2, Words: 5, Top: []Word{{"b", 3}, {"a", 2}}}},
		{"don't 'quote' '", Counts{Bytes: 15, Lines: 1, Words: 2, Top: []Word{{"don't", 1}, {"quote", 1}}}},
		{"Été ÉTÉ 北京\n", Counts{Bytes: 19, Lines: 1, Words: 3, Top: []Word{{"été", 2}, {"北京", 1}}}},
		{"a\xff\xfeb", Counts{Bytes: 4, Lines: 1, Words: 2, Top: []Word{{"a", 1}, {"b", 1}}}},
		{long + " " + long[1:], Counts{Bytes: 200, Lines: 1, Words: 2, Top: []Word{{long[:maxWord], 2}}}},
		{"a b c d e f g h i j k", Counts{Bytes: 21, Lines: 1, Words: 11, Top: []Word{
			{"a", 1}, {"b", 1}, {"c", 1}, {"d", 1}, {"e", 1}, {"f", 1}, {"g", 1}, {"h", 1}, {"i", 1}, {"j", 1},
		}}},
	} {
		for name, reader := range map[string]io.Reader{
			"whole":  strings.NewReader(c.text),
			"pieces": iotest.OneByteReader(strings.NewReader(c.text)),
		} {
			if got, err := count(reader); err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("%s %.20q: got %+v, %v, want %+v", name, c.text, got, err, c.want)
			}
		}
	}
}

// TestVocabulary counts far more distinct words than the table holds and checks the bound of the error.
func TestVocabulary(t *testing.T) {
	const distinct, frequent = 3 * vocabulary, 1000
	r, w := io.Pipe()
	go func() {
		for i := range distinct {
			fmt.Fprintf(w, "w%d ", i)
			if i%(distinct/frequent) == 0 {
				fmt.Fprint(w, "often ")
			}
		}
		w.Close()
	}()
	got, err := count(r)
	if err != nil {
		t.Fatal(err)
	}
	if got.Undercount == 0 || got.Undercount > got.Words/vocabulary {
		t.Errorf("undercount %d of %d words", got.Undercount, got.Words)
	}
	first := got.Top[0]
	if real := int64((distinct + distinct/frequent - 1) / (distinct / frequent)); first.Word != "often" ||
		first.Count > real || first.Count < real-got.Undercount {
		t.Errorf("got %v, real %d, undercount %d", first, real, got.Undercount)
	}
}

// TestMemory streams 50 MB through the server and allows 2 MB of allocations in all.
func TestMemory(t *testing.T) {
	const size = 50_000_000
	line := "the quick brown fox jumps over the lazy dog 0123\n"
	text := io.LimitReader(&repeat{text: line}, size)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	recorder := httptest.NewRecorder()
	serve(recorder, httptest.NewRequest(http.MethodPost, "/", text))
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 2<<20 {
		t.Errorf("allocated %d bytes", grown)
	}
	var got Counts
	if err := json.Unmarshal(recorder.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Bytes != size || got.Top[0].Word != "the" || got.Top[0].Count/2 != got.Lines-1 && got.Top[0].Count/2 != got.Lines {
		t.Errorf("got %+v", got)
	}
}

type repeat struct {
	text string
	at   int
}

func (r *repeat) Read(p []byte) (int, error) {
	n := copy(p, r.text[r.at:])
	r.at = (r.at + n) % len(r.text)
	return n, nil
}

func TestServeRefuses(t *testing.T) {
	for _, c := range []struct {
		request *http.Request
		status  int
	}{
		{httptest.NewRequest(http.MethodGet, "/", nil), http.StatusMethodNotAllowed},
		{httptest.NewRequest(http.MethodPost, "/", iotest.ErrReader(errors.New("reset"))), http.StatusBadRequest},
	} {
		recorder := httptest.NewRecorder()
		serve(recorder, c.request)
		if recorder.Code != c.status {
			t.Errorf("%s got %d", c.request.Method, recorder.Code)
		}
	}
}
