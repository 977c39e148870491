package lambent

import (
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"
)

func aliasOf(sticky string, weights ...int) *Alias {
	a := &Alias{Sticky: sticky}
	for i, w := range weights {
		a.Targets = append(a.Targets, Target{&Revision{ID: fmt.Sprintf("%016x", i)}, w})
	}
	return a
}

func TestCheckAlias(t *testing.T) {
	for name, want := range map[string]Code{
		"prod": "", "v1": "", "latest-good": "",
		"latest": CodeConflict, "1": CodeConflict, "007": CodeConflict, "1234567890123456": CodeConflict,
		"": CodeInvalidRequest, "Prod": CodeInvalidRequest, "a.b": CodeInvalidRequest, "1a": CodeInvalidRequest, "abcdef0123456789": CodeInvalidRequest,
	} {
		if err := CheckAlias(name); want == "" && err != nil || want != "" && !HasCode(err, want) {
			t.Errorf("%q: %v, want %q", name, err, want)
		}
	}
}

func TestAliasCheck(t *testing.T) {
	for _, sticky := range []string{"", "header:X-User", "query:user_id", "header:authorization"} {
		if err := aliasOf(sticky, 1, 1000).Check(); err != nil {
			t.Errorf("%q: %v", sticky, err)
		}
	}
	twice := aliasOf("", 1, 1)
	twice.Targets[1].Revision = twice.Targets[0].Revision
	for want, a := range map[string]*Alias{
		"targets: 0 is not between":   aliasOf(""),
		"targets: 11 is not between":  aliasOf("", 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1),
		"targets[1].weight: 0 is not": aliasOf("", 1, 0),
		"targets[0].weight: -1":       aliasOf("", -1),
		"targets[0].weight: 1001":     aliasOf("", 1001),
		"is there twice":              twice,
		`sticky: "cookie:a"`:          aliasOf("cookie:a", 1),
		`sticky: "header:"`:           aliasOf("header:", 1),
		`sticky: "header:a b"`:        aliasOf("header:a b", 1),
		`sticky: "query:a&b"`:         aliasOf("query:a&b", 1),
		`sticky: "X-User"`:            aliasOf("X-User", 1),
	} {
		if err := a.Check(); !HasCode(err, CodeInvalidRequest) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// shares counts how often each target was given, by the index in its id.
func shares(n int, pick func(i int) *Revision) map[string]int {
	out := map[string]int{}
	for i := range n {
		out[pick(i).ID]++
	}
	return out
}

// checkShares allows five standard deviations. The keys are the same in every run, so its answer is too.
func checkShares(t *testing.T, a *Alias, n int, got map[string]int) {
	t.Helper()
	total := 0
	for _, target := range a.Targets {
		total += target.Weight
	}
	for _, target := range a.Targets {
		p := float64(target.Weight) / float64(total)
		want, deviation := p*float64(n), math.Sqrt(float64(n)*p*(1-p))
		if math.Abs(float64(got[target.Revision.ID])-want) > 5*deviation {
			t.Errorf("weight %d of %d got %d of %d, want %.0f", target.Weight, total, got[target.Revision.ID], n, want)
		}
	}
}

func TestPickByWeight(t *testing.T) {
	const n = 50_000
	key := func(i int) http.Header { return http.Header{"X-User": {fmt.Sprint("user-", i)}} }
	for _, weights := range [][]int{{1}, {1, 1}, {90, 10}, {999, 1}, {5, 3, 2}, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}} {
		random, total := aliasOf("", weights...), 0
		for _, weight := range weights {
			total += weight
		}
		got := shares(total, random.at)
		for _, target := range random.Targets {
			if got[target.Revision.ID] != target.Weight {
				t.Errorf("weight %d of %d got %d", target.Weight, total, got[target.Revision.ID])
			}
		}
		sticky := aliasOf("header:x-user", weights...)
		checkShares(t, sticky, n, shares(n, func(i int) *Revision { return sticky.Pick(key(i), "/") }))
	}
	for what, a := range map[string]*Alias{"no key is asked for": aliasOf("", 1, 1), "there is no key": aliasOf("header:x-user", 1, 1)} {
		if got := shares(200, func(int) *Revision { return a.Pick(http.Header{}, "/") }); len(got) != 2 {
			t.Errorf("%s: all 200 are at the same of two", what)
		}
	}
}

func TestPickIsSticky(t *testing.T) {
	byHeader, byQuery := aliasOf("header:X-User", 2, 1, 1), aliasOf("query:user", 2, 1, 1)
	for i := range 200 {
		h, target := http.Header{"X-User": {fmt.Sprint(i)}}, fmt.Sprintf("/a?x=1&user=%d", i)
		first := byHeader.Pick(h, "/")
		for range 5 {
			if byHeader.Pick(h, "/other") != first || byQuery.Pick(nil, target).ID != first.ID {
				t.Fatalf("key %d is not always at %s", i, first.ID)
			}
		}
	}
	// What was decided once holds after every restart and update of Lambent: these answers, found by
	// another implementation, must never change.
	for key, want := range map[string]string{"ada": "0000000000000000", "bob": "0000000000000002", "dan": "0000000000000002", "carol": "0000000000000001", "zoë": "0000000000000001"} {
		if got := byHeader.Pick(http.Header{"X-User": {key}}, "/").ID; got != want {
			t.Errorf("%s is at %s, was at %s", key, got, want)
		}
	}
	if byQuery.Pick(nil, "/?user=a%20b&%zz") != byQuery.Pick(nil, "/?%zz&user=a+b") {
		t.Error("a query that is half unreadable lost its key")
	}
}

// When weights change keys move to what grew or from what shrank, never between two others, and no more of them
// than the shares say.
func TestPickMovesLittle(t *testing.T) {
	const n = 50_000
	for _, c := range []struct {
		from, to []int
		moved    float64 // share of the keys
	}{
		{[]int{90, 10}, []int{80, 20}, 0.1},
		{[]int{1, 1}, []int{10, 10}, 0},
		{[]int{1, 1, 1}, []int{1, 1, 2}, 0.5 - 1./3},
		{[]int{50, 50}, []int{50, 50, 25}, 0.2}, // a new target takes its share of each
		{[]int{60, 30, 10}, []int{60, 30}, 0.1}, // one that leaves gives up its own
	} {
		before, after := aliasOf("query:k", c.from...), aliasOf("query:k", c.to...)
		moved := 0
		weight := func(a *Alias, id string) float64 { // its share
			own, total := 0, 0
			for _, target := range a.Targets {
				total += target.Weight
				if target.Revision.ID == id {
					own = target.Weight
				}
			}
			return float64(own) / float64(total)
		}
		for i := range n {
			target := fmt.Sprint("/?k=", i)
			was, is := before.Pick(nil, target).ID, after.Pick(nil, target).ID
			if was == is {
				continue
			}
			moved++
			if weight(after, was) >= weight(before, was) || weight(after, is) <= weight(before, is) {
				t.Fatalf("%v to %v: key %d moved from %s to %s", c.from, c.to, i, was, is)
			}
		}
		want := c.moved * n
		if math.Abs(float64(moved)-want) > 5*math.Sqrt(want) {
			t.Errorf("%v to %v: %d keys of %d moved, want %.0f", c.from, c.to, moved, n, want)
		}
	}
}
