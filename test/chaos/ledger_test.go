package main

import (
	"strings"
	"testing"

	"lambent"
)

// A harness that cannot fail is worth nothing: each kind of harm is seen, and named.
func TestLedgerSeesHarm(t *testing.T) {
	killed := map[string]bool{"i1": true}
	died := &failure{fault: lambent.FaultFunction, code: lambent.CodeInstanceExited}
	for _, c := range []struct {
		name  string
		story func(l *ledger)
		want  verdict
	}{
		{"answered", func(l *ledger) { l.read("a", "i0"); l.work("a", "i0"); l.end("a", nil) }, verdict{answered: 1, done: 1}},
		{"read and died", func(l *ledger) { l.read("a", "i1"); l.end("a", died) }, verdict{excused: 1}},
		{"seen and died", func(l *ledger) { l.see("a", "i1"); l.end("a", died) }, verdict{excused: 1}},
		{"seen by one that died, done by another", func(l *ledger) { l.see("a", "i1"); l.read("a", "i0"); l.work("a", "i0"); l.end("a", nil) }, verdict{answered: 1, done: 1}},
		{"seen by one that died, failed at another", func(l *ledger) { l.see("a", "i1"); l.read("a", "i0"); l.end("a", died) }, verdict{failed: 1}},
		{"done and died", func(l *ledger) { l.read("a", "i1"); l.work("a", "i1"); l.end("a", died) }, verdict{excused: 1, done: 1}},
		{"failed though nobody had read it", func(l *ledger) { l.end("a", died) }, verdict{failed: 1}},
		{"failed though its instance lives", func(l *ledger) { l.read("a", "i0"); l.end("a", died) }, verdict{failed: 1}},
		{"failed without a reason", func(l *ledger) { l.read("a", "i1"); l.end("a", &failure{}) }, verdict{failed: 1}},
		{"blamed on the platform", func(l *ledger) {
			l.read("a", "i1")
			l.end("a", &failure{fault: lambent.FaultPlatform, code: lambent.CodeInternal})
		}, verdict{failed: 1}},
		{"answered by nobody", func(l *ledger) { l.end("a", nil) }, verdict{answered: 1, lost: 1}},
		{"read, not done, yet answered", func(l *ledger) { l.read("a", "i0"); l.end("a", nil) }, verdict{answered: 1, lost: 1}},
		{"never ended", func(l *ledger) { l.read("a", "i0"); l.work("a", "i0") }, verdict{lost: 1, done: 1}},
		{"read twice", func(l *ledger) { l.read("a", "i1"); l.read("a", "i0"); l.work("a", "i0"); l.end("a", nil) }, verdict{answered: 1, done: 1, doubled: 1}},
		{"done twice", func(l *ledger) { l.read("a", "i0"); l.work("a", "i0"); l.work("a", "i0"); l.end("a", nil) }, verdict{answered: 1, done: 1, doubled: 1}},
		{"done but never sent", func(l *ledger) { l.work("b", "i0"); l.read("a", "i0"); l.work("a", "i0"); l.end("a", nil) }, verdict{answered: 1, done: 1, strange: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLedger()
			l.send("a", "f")
			c.story(l)
			v := l.close(byKill(killed))
			got := verdict{answered: v.answered, done: v.done, excused: v.excused, failed: v.failed, lost: v.lost, doubled: v.doubled, strange: v.strange}
			if got.answered != c.want.answered || got.done != c.want.done || got.excused != c.want.excused ||
				got.failed != c.want.failed || got.lost != c.want.lost || got.doubled != c.want.doubled || got.strange != c.want.strange {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			harm := got.failed + got.lost + got.doubled + got.strange
			if harm > 0 && (len(v.examples) == 0 || !strings.ContainsAny(v.examples[0], "ab")) {
				t.Errorf("%d wrong, but told is %q", harm, v.examples)
			}
		})
	}
}

// Without a reason to excuse it, every failure counts.
func TestLedgerExcusesNothingByItself(t *testing.T) {
	l := newLedger()
	l.send("a", "f")
	l.end("a", &failure{fault: lambent.FaultFunction, code: lambent.CodeInstanceExited})
	if v := l.close(nil); v.failed != 1 || v.excused != 0 {
		t.Errorf("%+v", v)
	}
}
