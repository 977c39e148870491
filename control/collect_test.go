package control_test

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lambent"
	"lambent/control"
	"lambent/store"
)

// logNames are functions that have logs, by NAMESPACE/NAME.
type logNames struct{ names []string }

func (l *logNames) Names() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, n := range slices.Clone(l.names) {
			if namespace, name, _ := strings.Cut(n, "/"); !yield(namespace, name) {
				return
			}
		}
	}
}

func (l *logNames) Remove(namespace, name string) error {
	l.names = slices.DeleteFunc(l.names, func(n string) bool { return n == namespace+"/"+name })
	return nil
}

// garbage is a collector of a world. Its clock goes on by hand.
type garbage struct {
	*control.Collector
	w    *world
	live []*lambent.Revision
	logs logNames
	text strings.Builder // what it has logged
	now  time.Duration   // ahead of the clock on the wall
}

func (w *world) garbage() *garbage {
	g := &garbage{w: w}
	g.Collector = control.NewCollector(control.CollectorOptions{
		Store: w.Store, Functions: w.Functions(), Code: w.Code.(control.CodeGarbage), Logs: &g.logs, Keep: 3,
		Logger: slog.New(slog.NewTextHandler(&g.text, nil)),
		Live:   func(yield func(*lambent.Revision) bool) { slices.Values(g.live)(yield) },
	})
	w.Changed = g.Changed
	return g
}

// after collects as if that much time had passed.
func (g *garbage) after(d time.Duration) {
	g.w.t.Helper()
	g.now += d
	if err := g.Collect(g.w.t.Context(), time.Now().Add(g.now)); err != nil {
		g.w.t.Fatal(err)
	}
}

func (w *world) revisions(path string) (ids []string) {
	w.t.Helper()
	var out control.Revisions
	w.gives(200, &out, "GET", path+"/revisions", "")
	for _, r := range out.Revisions {
		ids = append(ids, r.ID)
	}
	return ids
}

func (w *world) wantRevisions(when string, want ...string) {
	w.t.Helper()
	got := w.revisions(hello)
	slices.Sort(got)
	if want = slices.Compact(slices.Sorted(slices.Values(want))); !slices.Equal(got, want) {
		w.t.Errorf("%s: revisions %v, want %v", when, got, want)
	}
}

func TestCollectRevisions(t *testing.T) {
	w := newWorld(t)
	g := w.garbage()
	r := w.deployed(64, 65, 66, 67, 68, 69, 70, 71, 72, 73, 74, 75)
	w.wantRevisions("before", r...)
	g.after(0)
	w.wantRevisions("the latest, the one before it, 3 others", r[7:]...)
	w.fails(lambent.CodeNotFound, "GET", hello+"/revisions/"+r[0], "")
	w.fails(lambent.CodeNotFound, "PUT", hello+"/aliases/prod", targets(r[0]))

	// What is referred to stays, whatever comes.
	w.alias(201, "PUT", "/aliases/prod", targets(r[7]))
	w.alias(200, "PUT", "/aliases/prod", targets(r[8]))
	w.alias(201, "POST", "/publish", `{"revision": "`+r[9]+`"}`)
	more := w.deployed(80, 81, 82, 83, 84, 85, 86)
	g.after(0)
	w.wantRevisions("beside an alias, what it was before, and a number", append(more[2:], r[7], r[8], r[9])...)
	w.gives(200, nil, "POST", hello+"/rollback", `{"alias": "prod"}`)
	w.gives(200, nil, "POST", hello+"/rollback", "")
	w.wantRevisions("after rollbacks", append(more[2:], r[7], r[8], r[9])...)

	// What was put to use again counts as the youngest.
	w.gives(204, nil, "DELETE", hello+"/aliases/prod", "")
	g.after(0)
	w.wantRevisions("without the alias", more[5], more[6], r[9], r[7], more[4], more[3])

	if again := w.deployed(64); again[0] != r[0] {
		t.Errorf("%s is deployed as %s", r[0], again[0])
	}
}

func (w *world) has(digest string, want bool) {
	w.t.Helper()
	if w.Code.Has(digest) != want {
		w.t.Errorf("has %.16s: %v", digest, !want)
	}
}

// deploys deploys a function of team once with each code, by a key of team, and gives its revisions.
func (w *world) deploys(name string, digests ...string) (revisions []*lambent.Revision) {
	w.t.Helper()
	for _, digest := range digests {
		var d control.Deployment
		resp, raw := w.do("PUT", "/v1/namespaces/team/functions/"+name, deployBody(`{"runtime": "go"}`, digest), as("team-deploy")...)
		if resp.StatusCode >= 300 {
			w.t.Fatalf("deploy: %s", raw)
		}
		w.gives(200, &d.Function, "GET", "/v1/namespaces/team/functions/"+name, "")
		revisions = append(revisions, d.Function.Latest)
	}
	return revisions
}

func TestCollectCode(t *testing.T) {
	w := newWorld(t)
	w.team()
	g := w.garbage()
	var c []string
	for i := range 9 {
		var b control.Bundle
		w.gives(200, &b, "PUT", "/v1/code", fmt.Sprint("code ", i), as("team-deploy")...)
		c = append(c, b.Digest)
	}
	r := w.deploys("f", c[:8]...) // c[8] is uploaded, for later
	w.deploys("g", c[0])
	g.live = r[1:2]
	held, _ := w.Code.Hold(c[2])
	g.after(0)
	for _, digest := range c {
		w.has(digest, true) // whoever may still start it has the time to
	}
	g.after(2 * time.Minute)
	w.has(c[0], true) // g's
	w.has(c[1], true) // has an instance
	w.has(c[2], true) // held
	for _, digest := range c[3:] {
		w.has(digest, true) // of the latest, the one before and the 3 kept, and what is young
	}
	held()
	g.now = 0 // the use that ended just now is the latest
	g.live = nil
	g.Changed("team", "f", c[1], c[2], "")
	w.deploys("f", c[8])
	g.after(0)
	g.after(2 * time.Minute)
	for i, digest := range c {
		w.has(digest, i == 0 || i > 3)
	}
	if keys := w.keys("code.team."); len(keys) != 6 {
		t.Errorf("left of the notes who has uploaded what: %v", keys)
	}
	resp, _ := w.do("HEAD", "/v1/code/"+c[1], "", as("team-deploy")...)
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("what is gone: %s", resp.Status)
	}
	w.gives(204, nil, "DELETE", "/v1/namespaces/team/functions/g", "", as("team-deploy")...)
	w.gives(204, nil, "DELETE", "/v1/namespaces/team/functions/f", "", as("team-deploy")...)
	g.after(0)
	g.after(2 * time.Minute)
	for _, digest := range c {
		w.has(digest, false)
	}

	// What nothing has ever referred to stays for an hour from its last use.
	lone := w.upload("never deployed")
	g.after(30 * time.Minute)
	g.after(2 * time.Minute)
	w.has(lone, true)
	g.after(time.Hour)
	g.after(2 * time.Minute)
	w.has(lone, false)
}

func (w *world) keys(prefix string) (keys []string) {
	w.t.Helper()
	for e, err := range w.Store.List(w.t.Context(), prefix) {
		if err != nil {
			w.t.Fatal(err)
		}
		keys = append(keys, e.Key)
	}
	return keys
}

// A crash may leave anything half done.
func TestCollectLeftovers(t *testing.T) {
	w := newWorld(t)
	g := w.garbage()
	w.deployed(64, 65, 66, 67, 68, 69, 70, 71)
	settings, err := lambent.Settings{Runtime: "go"}.Complete()
	if err != nil {
		t.Fatal(err)
	}
	code := w.upload("of functions that are gone")
	for _, name := range []string{"gone", "coming", "running"} {
		rev := lambent.NewRevision("default", name, settings, code, "root", time.Now())
		f := &lambent.Function{Namespace: "default", Name: name, Latest: rev}
		for key, value := range control.Entries(f) {
			if strings.HasPrefix(key, control.FunctionPrefix) {
				key = control.AliasPrefix + "default." + name + ".prod"
			}
			if _, err := w.Store.Put(t.Context(), key, value, 0); err != nil {
				t.Fatal(err)
			}
		}
		g.logs.names = append(g.logs.names, "default/"+name)
		if name == "running" {
			g.live = append(g.live, rev)
		}
	}
	g.logs.names = append(g.logs.names, "default/hello")
	stale := "code.team." + strings.Repeat("0", 64)
	if _, err := w.Store.Put(t.Context(), stale, nil, 0); err != nil {
		t.Fatal(err)
	}
	h := w.garbage() // knows of no change before
	h.logs, h.live = g.logs, g.live
	h.after(2 * time.Minute) // looks at everything
	w.gives(201, nil, "PUT", "/v1/namespaces/default/functions/coming", deployBody(`{"runtime": "go"}`, code))
	h.after(0)
	if _, err := w.Store.Get(t.Context(), stale); err != store.ErrNotFound {
		t.Errorf("a note of code that is gone: %v", err)
	}
	if n := len(w.keys("revision.default.gone.")); n != 1 {
		t.Errorf("%d revisions before the time", n)
	}
	h.after(2 * time.Minute)
	if left := append(w.keys("revision.default.gone."), w.keys("alias.default.gone.")...); len(left) > 0 {
		t.Errorf("left of a function that is gone: %v", left)
	}
	if n := len(w.keys("revision.default.running.")); n != 1 {
		t.Error("a function with instances is removed")
	}
	if !slices.Equal(h.logs.names, []string{"default/coming", "default/running", "default/hello"}) {
		t.Errorf("logs of %v", h.logs.names)
	}
	w.gives(200, nil, "GET", "/v1/namespaces/default/functions/coming", "")
	if n := len(w.revisions(hello)); n != 5 {
		t.Errorf("%d revisions of a function that had too many", n)
	}
}

// What cannot be read keeps nothing from being collected but what it may refer to.
func TestCollectBesideUnreadable(t *testing.T) {
	w := newWorld(t)
	w.team()
	g := w.garbage()
	w.deployed(64, 65, 66, 67, 68, 69, 70, 71)
	code := w.upload("of a revision that cannot be read")
	damaged := map[string]string{
		"alias.default.hello.prod":   `{"name`,
		"revision.default.gone.0123": `{"code":"` + code,
	}
	for key, value := range damaged {
		if _, err := w.Store.Put(t.Context(), key, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	var c []string
	for i := range 6 {
		var b control.Bundle
		w.gives(200, &b, "PUT", "/v1/code", fmt.Sprint("code ", i), as("team-deploy")...)
		c = append(c, b.Digest)
	}
	w.deploys("f", c...)
	g.Changed("default", "gone", code)
	g.after(0)
	g.after(2 * time.Minute)
	w.has(c[0], false)
	w.has(code, true)
	if n := len(w.keys("revision.default.hello.")); n != 8 {
		t.Errorf("%d revisions of a function with an alias that cannot be read", n)
	}
	g.Changed("default", "hello", code)
	g.after(2 * time.Hour) // looks at everything again
	g.after(2 * time.Minute)
	w.has(code, true)
	if n := len(w.keys("revision.default.gone.")); n != 1 {
		t.Error("what cannot be read is gone")
	}
	for key := range damaged {
		if n := strings.Count(g.text.String(), "entry="+key); n != 1 {
			t.Errorf("the log names %s %d times: %s", key, n, &g.text)
		}
	}
}

// reuploading is code that is uploaded again whenever it has been removed.
type reuploading struct {
	control.CodeGarbage
	upload func()
}

func (r reuploading) Remove(digest string, since time.Time) (bool, error) {
	removed, err := r.CodeGarbage.Remove(digest, since)
	if removed {
		r.upload()
	}
	return removed, err
}

// Who uploads code that is being collected may use it, for as long as anybody who has uploaded something.
func TestCollectUploadedAgain(t *testing.T) {
	w := newWorld(t)
	w.team()
	g := w.garbage()
	var b control.Bundle
	upload := func() { w.gives(200, &b, "PUT", "/v1/code", "code", as("team-deploy")...) }
	g.Code = reuploading{g.Code, upload}
	upload()
	g.Changed("team", "f", b.Digest)
	g.after(2 * time.Minute)
	w.gives(200, nil, "HEAD", "/v1/code/"+b.Digest, "", as("team-deploy")...) // it was removed, but uploaded right then

	g = w.garbage()
	g.Changed("team", "f", b.Digest)
	upload()
	for range 10 {
		g.after(2 * time.Minute)
	}
	w.has(b.Digest, true)
	g.after(time.Hour)
	g.after(2 * time.Minute)
	w.has(b.Digest, false)
}

// Deploys, moves of aliases and rollbacks never meet a revision or code that was just removed.
func TestCollectUnderLoad(t *testing.T) {
	w := newWorld(t)
	collector := control.NewCollector(control.CollectorOptions{
		Store: w.Store, Functions: w.Functions(), Code: w.Code.(control.CodeGarbage), Logs: &logNames{}, Keep: 1, Grace: time.Nanosecond,
		Live: func(func(*lambent.Revision) bool) {},
	})
	w.Changed = collector.Changed
	ctx, stop := context.WithCancel(t.Context())
	var collecting, working sync.WaitGroup
	collecting.Go(func() {
		for ctx.Err() == nil {
			if err := collector.Collect(ctx, time.Now()); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	})
	for worker := range 3 {
		working.Go(func() {
			path := fmt.Sprint("/v1/namespaces/default/functions/f", worker)
			for i := range 40 {
				digest := w.upload(fmt.Sprint("code ", worker, i))
				resp, body := w.do("PUT", path, deployBody(`{"runtime": "go"}`, digest))
				if resp.StatusCode >= 300 {
					t.Errorf("deploy: %s", body)
				}
				for _, r := range [][3]string{
					{"PUT", path + "/aliases/prod", targets("latest")},
					{"POST", path + "/rollback", ""},
					{"POST", path + "/rollback", `{"alias": "prod"}`},
				} {
					if resp, body := w.do(r[0], r[1], r[2]); resp.StatusCode >= 300 && i > 1 {
						t.Errorf("%s %s: %s", r[0], r[1], body)
					}
				}
			}
		})
	}
	working.Wait()
	stop()
	collecting.Wait()
	if err := collector.Collect(t.Context(), time.Now()); err != nil {
		t.Error(err)
	}
	for namespace, name := range w.Functions().Names() {
		path := "/v1/namespaces/" + namespace + "/functions/" + name
		var aliases control.Aliases
		w.gives(200, &aliases, "GET", path+"/aliases", "")
		for _, a := range aliases.Aliases {
			for _, weight := range slices.Concat(a.Weights(), a.Previous) {
				r := &lambent.Revision{}
				w.gives(200, r, "GET", path+"/revisions/"+weight.Revision, "")
				w.has(r.Code, true)
			}
		}
		if n := len(w.revisions(path)); n > 6 {
			t.Errorf("%s has %d revisions", name, n)
		}
	}
}
