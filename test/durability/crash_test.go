package durability

import (
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"lambent/client"
	"lambent/internal/durable"
	"lambent/test/fault"
)

// run is the script on a node that no fault hits.
type run struct {
	dir   string
	calls []*fault.Call
	ends  []int    // how many calls there were when each step was acknowledged; the first is the start
	state []string // what was observed then
}

func reference(t *testing.T) *run {
	r := &run{dir: t.TempDir()}
	n, err := start(t, r.dir, func(*fault.Call) fault.Verdict { return fault.Verdict{} })
	check(t, err)
	note := func() {
		r.ends = append(r.ends, len(n.faults.Trace()))
		r.state = append(r.state, observe(t, n))
	}
	note()
	for _, s := range script {
		if err := s.do(t.Context(), n); err != nil {
			t.Fatalf("%s: %+v", s.name, err)
		}
		note()
	}
	check(t, n.stop())
	r.calls = n.faults.Trace()
	return r
}

// kind tells calls apart by what they do to which sort of file.
func kind(dir string, c *fault.Call) string {
	path := strings.TrimPrefix(c.Path, dir)
	for _, r := range alike {
		path = r.of.ReplaceAllString(path, r.is)
	}
	return c.Name + " " + path
}

// alike are names that differ from run to run, and files that are all written in one way.
var alike = []struct {
	of *regexp.Regexp
	is string
}{
	{regexp.MustCompile(`^/run/runtime/.*`), "/run/runtime/*"},
	{regexp.MustCompile(`^/run/instances/.*`), "/run/instances/*"},
	{regexp.MustCompile(`^/code/trees/.*`), "/code/trees/*"},
	{regexp.MustCompile(`[0-9a-f]{16,}|[0-9]{3,}|[0-9]+\b|[A-Za-z0-9]{22}`), "*"},
}

// maxKills bounds the time of TestKilledAtAnyWrite.
const maxKills = 30

// Whichever write a daemon is killed at, the next one has all that was acknowledged, the change under way wholly or not
// at all, and leaves no unfinished file.
func TestKilledAtAnyWrite(t *testing.T) {
	ref := reference(t)
	count := map[string]int{}
	var kinds []string
	for _, c := range ref.calls {
		k := kind(ref.dir, c)
		if count[k]++; count[k] == 1 {
			kinds = append(kinds, k)
		}
	}
	t.Logf("%d calls of %d kinds", len(ref.calls), len(kinds))
	tried, killed := 0, 0
	for i, k := range kinds {
		if len(kinds) > maxKills && i*maxKills/len(kinds) == (i-1)*maxKills/len(kinds) && i > 0 {
			continue // a spread of all
		}
		nth := 1 + i%min(count[k], 3) // not always the first of its kind
		t.Run(strings.ReplaceAll(strings.ReplaceAll(k, " /", " "), "/", ":"), func(t *testing.T) {
			tried++
			if ref.kill(t, k, nth) {
				killed++
			}
		})
	}
	if killed < tried*8/10 { // what is written in the background is not the same every time
		t.Errorf("only %d of %d nodes met the call that they were to be killed at", killed, tried)
	}
}

// kill runs the script on a node that is killed at the nth call of a kind, if it comes, and looks at the next node there.
func (r *run) kill(t *testing.T, what string, nth int) (killed bool) {
	dir := t.TempDir()
	var met atomic.Int64
	tear := strings.HasPrefix(what, "pwrite64") && nth%2 == 0 // half of a write may have been done
	n, err := start(t, dir, func(c *fault.Call) fault.Verdict {
		if kind(dir, c) != what || met.Add(1) != int64(nth) {
			return fault.Verdict{}
		}
		return fault.Verdict{Kill: !tear, Tear: tear}
	})
	if n == nil {
		t.Fatal(err)
	}
	acked := 0 // states; the one after may be there, too
	for ; err == nil && acked < len(script); acked++ {
		if err = script[acked].do(t.Context(), n); err != nil {
			break
		}
	}
	if err == nil {
		err = n.stop()
	}
	killed = n.faults.Killed()
	if err != nil && !killed {
		t.Fatalf("after %d steps: %+v", acked, err)
	}
	n, err = start(t, dir, nil)
	check(t, err)
	got := observe(t, n)
	if got != r.state[acked] && got != r.state[min(acked+1, len(r.state)-1)] {
		t.Errorf("after %d steps the next node has\n%s, want\n%s, or\n%s", acked, got, r.state[acked], r.state[min(acked+1, len(r.state)-1)])
	}
	for _, err := range n.client.Logs(t.Context(), "default", "greet", client.LogQuery{Tail: -1}) {
		if err != nil && !strings.Contains(got, "function greet") {
			break // of a function that is not there
		}
		check(t, err)
	}
	if _, err := n.client.Invocations(t.Context(), "", "", 100); err != nil {
		t.Errorf("records: %v", err)
	}
	check(t, n.stop())
	n.wantNoLeftovers()
	return killed
}

// wantNoLeftovers looks for files that a crash left and nobody will remove.
func (n *node) wantNoLeftovers() {
	n.t.Helper()
	err := filepath.WalkDir(n.dir, func(path string, d fs.DirEntry, err error) error {
		unfinished := strings.HasSuffix(path, durable.Suffix) || filepath.Base(filepath.Dir(path)) == "tmp"
		if err == nil && unfinished {
			n.t.Errorf("left behind: %s", path)
		}
		return err
	})
	check(n.t, err)
}

// The order that survives a loss of power: content before its name, the name before the answer. NATS answers for its own
// files; that they are synced before the watermark says so is ours.
func TestOrderOfWrites(t *testing.T) {
	ref := reference(t)
	renames, marks := 0, 0
	for i, c := range ref.calls {
		file := strings.TrimPrefix(c.Path, ref.dir+"/")
		before, after := ref.calls[:i], ref.calls[i:ref.answered(i)]
		switch room, _, _ := strings.Cut(file, "/"); {
		case strings.HasSuffix(file, ".watermark") && c.Name == "pwrite64":
			marks++
			since := before[1+lastOf(before, func(b *fault.Call) bool { return b.Path == c.Path && b.Name == "pwrite64" }):]
			if lastOf(since, func(b *fault.Call) bool { return b.Name == "fsync" && filepath.Ext(b.Path) == ".blk" }) < 0 {
				t.Errorf("call %d says that a write lasts, which was not synced: %v", c.Nth, describe(since))
			}
		case !strings.HasPrefix(c.Name, "rename"), room == "nats" && !strings.Contains(file, ".watermark"), room == "run":
		case strings.Contains(strings.TrimPrefix(c.To, ref.dir), "/tmp/"): // to be removed
		default:
			renames++
			synced := lastOf(before, func(b *fault.Call) bool { return b.Name == "fsync" && b.Path == c.Path || b.Name == "syncfs" })
			changed := lastOf(before, func(b *fault.Call) bool {
				return (b.Path == c.Path || strings.HasPrefix(b.Path, c.Path+"/")) && b.Name != "fsync" && b.Name != "syncfs"
			})
			if synced < changed || synced < 0 {
				t.Errorf("%s gets its name before its content is on the disk: %v", file, describe(before[max(0, i-10):]))
			}
			if !slices.ContainsFunc(after, func(a *fault.Call) bool { return a.Name == "fsync" && a.Path == filepath.Dir(c.To) }) {
				t.Errorf("%s is acknowledged before its name is on the disk: %v", file, describe(after))
			}
		}
	}
	if renames < 6 || marks < len(script)-1 {
		t.Errorf("only %d renames and %d writes of the watermark were looked at", renames, marks)
	}
	t.Logf("%d calls, %d renames, %d writes of the watermark", len(ref.calls), renames, marks)
}

// answered gives how many calls there had been when the step was acknowledged in which call i was made.
func (r *run) answered(i int) int {
	at, _ := slices.BinarySearch(r.ends, i+1)
	if at == len(r.ends) {
		return len(r.calls)
	}
	return r.ends[at]
}

func lastOf(calls []*fault.Call, is func(*fault.Call) bool) int {
	for i, c := range slices.Backward(calls) {
		if is(c) {
			return i
		}
	}
	return -1
}

func describe(calls []*fault.Call) (out []string) {
	for _, c := range calls {
		out = append(out, c.Name+" "+c.Path)
	}
	return out
}
