package control_test

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"lambent"
	"lambent/control"
	"lambent/store"
)

// deployed deploys hello once for each memory size and gives the revisions' ids.
func (w *world) deployed(memories ...int) (ids []string) {
	w.t.Helper()
	digest := w.upload("code")
	for _, m := range memories {
		var d control.Deployment
		resp, raw := w.do("PUT", hello, deployBody(fmt.Sprintf(`{"runtime": "go", "memory": %d}`, m), digest))
		if err := json.Unmarshal([]byte(raw), &d); err != nil || resp.StatusCode >= 300 {
			w.t.Fatalf("deploy: %s, %v", raw, err)
		}
		ids = append(ids, d.Function.Latest.ID)
	}
	return ids
}

func targets(refs ...string) string {
	var out []string
	for _, ref := range refs {
		revision, weight, ok := strings.Cut(ref, "=")
		if !ok {
			weight = "1"
		}
		out = append(out, fmt.Sprintf(`{"revision": %q, "weight": %s}`, revision, weight))
	}
	return `{"targets": [` + strings.Join(out, ",") + `]}`
}

// alias sets an alias and gives it.
func (w *world) alias(status int, method, path, body string, header ...string) *lambent.Alias {
	w.t.Helper()
	a := &lambent.Alias{}
	resp := w.gives(status, a, method, hello+path, body, header...)
	if resp.Header.Get("ETag") != fmt.Sprintf(`"%d"`, a.Version) {
		w.t.Errorf("ETag %s of version %d", resp.Header.Get("ETag"), a.Version)
	}
	return a
}

func wantTargets(t *testing.T, a *lambent.Alias, want ...lambent.Weight) {
	t.Helper()
	if !slices.Equal(a.Weights(), want) {
		t.Errorf("%s points to %v, want %v", a.Name, a.Weights(), want)
	}
}

func TestAliasBadInput(t *testing.T) {
	w := newWorld(t)
	ids := w.deployed(64, 128)
	w.alias(201, "PUT", "/aliases/split", targets(ids...))
	w.alias(201, "POST", "/publish", "")
	var before []string
	for e, err := range w.Store.List(t.Context(), "") {
		before = append(before, fmt.Sprint(e.Key, e.Revision, err))
	}
	ok := targets(ids[0])
	nobody := "/v1/namespaces/default/functions/nobody"
	for _, tt := range []struct {
		name               string
		code               lambent.Code
		method, path, body string
		message, hint      string
	}{
		{"of no function", lambent.CodeFunctionNotFound, "PUT", nobody + "/aliases/prod", ok, "no function nobody", ""},
		{"list of no function", lambent.CodeFunctionNotFound, "GET", nobody + "/aliases", "", "no function nobody", ""},
		{"publish of no function", lambent.CodeFunctionNotFound, "POST", nobody + "/publish", "", "no function nobody", ""},
		{"rollback of no function", lambent.CodeFunctionNotFound, "POST", nobody + "/rollback", "", "no function nobody", ""},
		{"diff of no function", lambent.CodeFunctionNotFound, "GET", nobody + "/diff?from=latest&to=latest", "", "no function nobody", ""},
		{"invalid name", lambent.CodeInvalidRequest, "PUT", hello + "/aliases/Prod", ok, `"Prod" is no valid alias name`, "a-z"},
		{"name with a dot", lambent.CodeInvalidRequest, "PUT", hello + "/aliases/a.b", ok, `"a.b" is no valid alias name`, ""},
		{"name of a revision", lambent.CodeInvalidRequest, "PUT", hello + "/aliases/abcdefabcdefabcd", ok, "form of a revision's id", "another name"},
		{"latest is not set", lambent.CodeConflict, "PUT", hello + "/aliases/latest", ok, "follows the deploys", "rollback"},
		{"latest is not deleted", lambent.CodeConflict, "DELETE", hello + "/aliases/latest", "", "follows the deploys", ""},
		{"a number is not moved", lambent.CodeConflict, "PUT", hello + "/aliases/1", ok, "never moves", "next number"},
		{"nor taken", lambent.CodeConflict, "PUT", hello + "/aliases/7", ok, "never moves", ""},
		{"nor deleted", lambent.CodeConflict, "DELETE", hello + "/aliases/1", "", "goes with its function", ""},
		{"nor rolled back", lambent.CodeConflict, "POST", hello + "/rollback", `{"alias":"1"}`, "never moves", ""},
		{"no targets", lambent.CodeInvalidRequest, "PUT", hello + "/aliases/prod", `{"targets":[]}`, "body.targets: 0 is not between", ""},
		{"targets missing", lambent.CodeInvalidRequest, "PUT", hello + "/aliases/prod", `{}`, "required property targets", ""},
		{"no such revision", lambent.CodeNotFound, "PUT", hello + "/aliases/prod", targets("0123456789abcdef"), "body.targets[0].revision: function hello has no revision", "lambent get hello"},
		{"no such alias", lambent.CodeNotFound, "PUT", hello + "/aliases/prod", targets("1", "nothing"), `body.targets[1].revision: function hello has no alias "nothing"`, "alias ls hello"},
		{"no such number", lambent.CodeNotFound, "PUT", hello + "/aliases/prod", targets("9"), `no alias "9"`, ""},
		{"no reference", lambent.CodeNotFound, "PUT", hello + "/aliases/prod", targets("a/b c"), `no alias "a/b c"`, ""},
		{"a split target", lambent.CodeInvalidRequest, "PUT", hello + "/aliases/prod", targets("split"), "split points to 2 revisions", "by its id"},
		{"weight 0", lambent.CodeInvalidRequest, "PUT", hello + "/aliases/prod", targets(ids[0] + "=0"), "weight: expected number >= 1", ""},
		{"weight too large", lambent.CodeInvalidRequest, "PUT", hello + "/aliases/prod", targets(ids[0] + "=1001"), "weight: expected number <= 1000", ""},
		{"twice the same", lambent.CodeInvalidRequest, "PUT", hello + "/aliases/prod", targets("latest", ids[1]), "body.targets[1].revision: " + ids[1] + " is there twice", ""},
		{"sticky", lambent.CodeInvalidRequest, "PUT", hello + "/aliases/prod", ok[:len(ok)-1] + `,"sticky":"cookie:a"}`, `body.sticky: "cookie:a"`, "header:X-User"},
		{"unknown field", lambent.CodeInvalidRequest, "PUT", hello + "/aliases/prod", ok[:len(ok)-1] + `,"stiky":"query:a"}`, "body.stiky: unexpected", "did you mean sticky?"},
		{"get unknown", lambent.CodeNotFound, "GET", hello + "/aliases/prod", "", `no alias "prod"`, "alias ls"},
		{"get odd", lambent.CodeNotFound, "GET", hello + "/aliases/a%2fb", "", `no alias "a/b"`, ""},
		{"delete unknown", lambent.CodeNotFound, "DELETE", hello + "/aliases/prod", "", `no alias "prod"`, ""},
		{"publish unknown", lambent.CodeNotFound, "POST", hello + "/publish", `{"revision":"prod"}`, `body.revision: function hello has no alias "prod"`, ""},
		{"publish a split", lambent.CodeInvalidRequest, "POST", hello + "/publish", `{"revision":"split"}`, "2 revisions", ""},
		{"rollback unknown", lambent.CodeNotFound, "POST", hello + "/rollback", `{"alias":"prod"}`, `no alias "prod"`, ""},
		{"rollback of what never moved", lambent.CodeConflict, "POST", hello + "/rollback", `{"alias":"split"}`, "nothing to go back to", ""},
		{"diff without to", lambent.CodeInvalidRequest, "GET", hello + "/diff?from=latest", "", "query.to: required", ""},
		{"diff of unknown", lambent.CodeNotFound, "GET", hello + "/diff?from=latest&to=prod", "", `query.to: function hello has no alias "prod"`, ""},
		{"diff of a split", lambent.CodeInvalidRequest, "GET", hello + "/diff?from=split&to=latest", "", "query.from: alias split points to 2", ""},
		{"invoke unknown", lambent.CodeNotFound, "POST", hello + "/invocations?alias=prod", "", `no alias "prod"`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w.t = t
			e := w.fails(tt.code, tt.method, tt.path, tt.body)
			if !strings.Contains(e.Message, tt.message) || !strings.Contains(e.Hint, tt.hint) {
				t.Errorf("message %q, hint %q; want %q, %q", e.Message, e.Hint, tt.message, tt.hint)
			}
		})
	}
	w.t = t
	var after []string
	for e, err := range w.Store.List(t.Context(), "") {
		after = append(after, fmt.Sprint(e.Key, e.Revision, err))
	}
	if slices.Sort(before); !slices.Equal(before, slices.Sorted(slices.Values(after))) {
		t.Errorf("bad input changed the store: %v, before %v", after, before)
	}
}

func TestAliasLife(t *testing.T) {
	w := newWorld(t)
	ids := w.deployed(64, 128, 256)
	one := func(i int) lambent.Weight { return lambent.Weight{Revision: ids[i], Weight: 1} }

	first := w.alias(201, "PUT", "/aliases/prod", targets(ids[0]))
	wantTargets(t, first, one(0))
	if first.Targets[0].Revision.Settings.Memory != 64 || first.Previous != nil || first.Function != "hello" || first.Name != "prod" {
		t.Errorf("alias %+v", first)
	}
	if same := w.alias(200, "PUT", "/aliases/prod", targets(ids[0])); same.Version != first.Version {
		t.Errorf("setting the same made version %d of %d", same.Version, first.Version)
	}
	w.fails(lambent.CodeConflict, "PUT", hello+"/aliases/prod", targets(ids[1]), "If-None-Match", "*")
	w.fails(lambent.CodeConflict, "PUT", hello+"/aliases/prod", targets(ids[1]), "If-Match", `"1"`)
	w.fails(lambent.CodeConflict, "PUT", hello+"/aliases/other", targets(ids[1]), "If-Match", `"1"`)
	etag := fmt.Sprintf(`"%d"`, first.Version)
	split := w.alias(200, "PUT", "/aliases/prod", targets(ids[1]+"=90", "latest=10"), "If-Match", etag)
	wantTargets(t, split, lambent.Weight{Revision: ids[1], Weight: 90}, lambent.Weight{Revision: ids[2], Weight: 10})
	w.fails(lambent.CodeConflict, "PUT", hello+"/aliases/prod", targets(ids[1]), "If-Match", etag)
	sticky := w.alias(200, "PUT", "/aliases/prod", strings.Replace(targets(ids[1]+"=90", "latest=10"), "]}", `], "sticky": "header:X-User"}`, 1))
	if sticky.Sticky != "header:X-User" || !slices.Equal(sticky.Previous, first.Weights()) {
		t.Errorf("a change of the key alone is no move: %+v", sticky)
	}

	// Back, and back again.
	w.fails(lambent.CodeConflict, "POST", hello+"/rollback", `{"alias":"prod"}`, "If-Match", etag)
	back := w.alias(200, "POST", "/rollback", `{"alias":"prod"}`)
	wantTargets(t, back, one(0))
	if back.Sticky != "header:X-User" {
		t.Errorf("a rollback forgot the sticky key: %+v", back)
	}
	wantTargets(t, w.alias(200, "POST", "/rollback", `{"alias":"prod"}`), split.Weights()...)

	// latest goes back to the revision before; a deploy goes on from there.
	latest := w.alias(200, "GET", "/aliases/latest", "")
	wantTargets(t, latest, one(2))
	w.fails(lambent.CodeConflict, "POST", hello+"/rollback", "", "If-Match", `"1"`)
	back = w.alias(200, "POST", "/rollback", "", "If-Match", fmt.Sprintf(`"%d"`, latest.Version))
	wantTargets(t, back, one(1))
	var f lambent.Function
	w.gives(200, &f, "GET", hello, "")
	if f.Latest.ID != ids[1] || f.Previous != ids[2] || f.Version != back.Version {
		t.Errorf("function after the rollback: %+v", f)
	}
	wantTargets(t, w.alias(200, "POST", "/rollback", "{}"), one(2))

	// Numbers.
	n := w.alias(201, "POST", "/publish", "")
	if wantTargets(t, n, one(2)); n.Name != "1" {
		t.Errorf("the first version is %q", n.Name)
	}
	if n := w.alias(201, "POST", "/publish", `{"revision":"`+ids[0]+`"}`); n.Name != "2" {
		t.Errorf("the second version is %q", n.Name)
	}
	if again := w.alias(200, "POST", "/publish", `{"revision":"latest"}`); again.Name != "1" || again.Version != n.Version {
		t.Errorf("published again: %+v", again)
	}
	wantTargets(t, w.alias(201, "PUT", "/aliases/canary", targets("2")), one(0))

	var list control.Aliases
	w.gives(200, &list, "GET", hello+"/aliases", "")
	var names []string
	for _, a := range list.Aliases {
		names = append(names, a.Name)
	}
	if !slices.Equal(names, []string{"latest", "canary", "prod", "1", "2"}) {
		t.Errorf("aliases %v", names)
	}

	canary := w.alias(200, "GET", "/aliases/canary", "")
	w.fails(lambent.CodeConflict, "DELETE", hello+"/aliases/canary", "", "If-Match", `"1"`)
	w.gives(204, nil, "DELETE", hello+"/aliases/canary", "", "If-Match", fmt.Sprintf(`"%d"`, canary.Version))
	w.fails(lambent.CodeNotFound, "GET", hello+"/aliases/canary", "")

	w.gives(204, nil, "DELETE", hello, "")
	for e, err := range w.Store.List(t.Context(), "") {
		t.Errorf("left in the store: %s (%v)", e.Key, err)
	}
}

// The tenth version and those after it come in the order of numbers.
func TestPublishMany(t *testing.T) {
	w := newWorld(t)
	for i := range 12 {
		w.deployed(64 + i)
		if a := w.alias(201, "POST", "/publish", ""); a.Name != fmt.Sprint(i+1) {
			t.Fatalf("version %s, want %d", a.Name, i+1)
		}
	}
	var list control.Aliases
	w.gives(200, &list, "GET", hello+"/aliases", "")
	if last := list.Aliases[12].Name; last != "12" {
		t.Errorf("the last is %s", last)
	}
}

func TestAliasNeedsReadyRevisions(t *testing.T) {
	w := newWorld(t)
	ids := w.deployed(64, 128)
	set := w.alias(201, "PUT", "/aliases/prod", targets(ids[1]))
	w.Ready = func(_ context.Context, r *lambent.Revision) (lambent.Phases, error) {
		if r.ID == ids[0] {
			return lambent.Phases{}, lambent.Errorf(lambent.CodeStartFailed, "load: exited with code 1")
		}
		return lambent.Phases{}, nil
	}
	for path, body := range map[string]string{
		"/publish": `{"revision":"` + ids[0] + `"}`, "/rollback": "",
	} {
		w.fails(lambent.CodeStartFailed, "POST", hello+path, body)
	}
	e := w.fails(lambent.CodeStartFailed, "PUT", hello+"/aliases/prod", targets("latest", ids[0]))
	if !strings.Contains(e.Hint, "nothing has changed") {
		t.Errorf("hint %q", e.Hint)
	}
	if a := w.alias(200, "GET", "/aliases/prod", ""); a.Version != set.Version {
		t.Errorf("moved: %+v", a)
	}
	if a := w.alias(200, "GET", "/aliases/latest", ""); a.Targets[0].Revision.ID != ids[1] {
		t.Errorf("rolled back: %+v", a)
	}
}

// Of writers of one alias who have all read it before any wrote it, one wins.
func TestConcurrentAliases(t *testing.T) {
	w := newWorld(t)
	const n = 8
	memories := make([]int, n)
	for i := range memories {
		memories[i] = 64 + i
	}
	ids := w.deployed(memories...)
	var all sync.WaitGroup
	all.Add(n)
	w.Ready = func(context.Context, *lambent.Revision) (lambent.Phases, error) {
		all.Done()
		all.Wait()
		return lambent.Phases{}, nil
	}
	var mu sync.Mutex
	got := map[int]int{}
	var clients sync.WaitGroup
	for _, id := range ids {
		clients.Go(func() {
			resp, _ := w.do("PUT", hello+"/aliases/prod", targets(id))
			mu.Lock()
			defer mu.Unlock()
			got[resp.StatusCode]++
		})
	}
	clients.Wait()
	if got[201] != 1 || got[409] != n-1 {
		t.Errorf("statuses %v", got)
	}
	// Publishers do not lose: each revision gets a number of its own.
	w.Ready = func(context.Context, *lambent.Revision) (lambent.Phases, error) { return lambent.Phases{}, nil }
	numbers := map[string]bool{}
	for _, id := range ids {
		clients.Go(func() {
			var a lambent.Alias
			_, raw := w.do("POST", hello+"/publish", `{"revision":"`+id+`"}`)
			mu.Lock()
			defer mu.Unlock()
			if err := json.Unmarshal([]byte(raw), &a); err != nil || numbers[a.Name] || !lambent.IsPublished(a.Name) {
				t.Errorf("%s, %v", raw, err)
			}
			numbers[a.Name] = true
		})
	}
	clients.Wait()
}

// What a delete that broke off has left is neither served nor taken over.
func TestOrphans(t *testing.T) {
	w := newWorld(t)
	ids := w.deployed(64)
	w.alias(201, "PUT", "/aliases/prod", targets(ids[0]))
	w.alias(201, "POST", "/publish", "")
	breakOff := func() {
		t.Helper()
		if _, err := w.Store.Delete(t.Context(), "function.default.hello", store.Any); err != nil {
			t.Fatal(err)
		}
	}
	left := func() (n int) {
		for range w.Store.List(t.Context(), control.AliasPrefix) {
			n++
		}
		return n
	}
	breakOff()
	w.fails(lambent.CodeFunctionNotFound, "GET", hello+"/aliases/prod", "")
	w.fails(lambent.CodeFunctionNotFound, "POST", hello+"/invocations?alias=prod", "")
	w.deployed(128)
	if left() != 0 {
		t.Error("a new function has the aliases of the old one")
	}
	w.fails(lambent.CodeNotFound, "GET", hello+"/aliases/prod", "")

	w.alias(201, "POST", "/publish", "")
	breakOff()
	w.fails(lambent.CodeFunctionNotFound, "DELETE", hello, "")
	if left() != 0 {
		t.Error("the second delete left aliases")
	}

	// The function goes, or goes and comes back, while an alias of it waits for readiness.
	for _, comesBack := range []bool{false, true} {
		ids := w.deployed(64)
		w.Ready = func(context.Context, *lambent.Revision) (lambent.Phases, error) {
			w.Ready = func(context.Context, *lambent.Revision) (lambent.Phases, error) { return lambent.Phases{}, nil }
			w.gives(204, nil, "DELETE", hello, "")
			if comesBack {
				w.deployed(128)
			}
			return lambent.Phases{}, nil
		}
		w.fails(lambent.CodeFunctionNotFound, "PUT", hello+"/aliases/prod", targets(ids[0]))
		if left() != 0 {
			t.Error("an alias outlived its function")
		}
	}
}

func TestInvokeAlias(t *testing.T) {
	w := newWorld(t)
	ids := w.deployed(64, 128)
	w.alias(201, "PUT", "/aliases/old", targets(ids[0]))
	w.alias(201, "PUT", "/aliases/both", strings.Replace(targets(ids...), "]}", `], "sticky": "header:X-User"}`, 1))
	w.Invoke = func(_ context.Context, inv *lambent.Invocation) (*lambent.Response, error) {
		body := io.NopCloser(strings.NewReader(inv.Alias + " " + inv.Revision.ID))
		return &lambent.Response{Status: 200, ContentLength: -1, Body: body, Header: http.Header{}}, nil
	}
	for query, want := range map[string]string{
		"": "latest " + ids[1], "?alias=latest": "latest " + ids[1], "?alias=old": "old " + ids[0],
	} {
		if _, body := w.do("POST", hello+"/invocations"+query, ""); body != want {
			t.Errorf("%q: %s, want %s", query, body, want)
		}
	}
	seen := map[string]bool{}
	for i := range 40 {
		user := fmt.Sprint(i)
		_, first := w.do("POST", hello+"/invocations?alias=both", "", "X-User", user)
		if _, again := w.do("POST", hello+"/invocations?alias=both", "", "X-User", user); again != first {
			t.Errorf("user %s was at %s, then at %s", user, first, again)
		}
		seen[first] = true
	}
	if len(seen) != 2 {
		t.Errorf("answers %v", seen)
	}
}

func TestDamagedAlias(t *testing.T) {
	w := newWorld(t)
	w.deployed(64)
	for _, value := range []string{"{", "{}", `{"namespace":"default","function":"hello","name":"prod","targets":[{"weight":1}]}`,
		`{"namespace":"default","function":"other","name":"prod","targets":[{"weight":1,"revision":{}}]}`} {
		if _, err := w.Store.Put(t.Context(), "alias.default.hello.prod", []byte(value), store.Any); err != nil {
			t.Fatal(err)
		}
		if e := w.fails(lambent.CodeInternal, "GET", hello+"/aliases/prod", ""); !strings.Contains(e.Message, "alias.default.hello.prod is damaged") {
			t.Errorf("%+v", e)
		}
	}
}

// archive gives a tar of the headers' entries, their Linkname being the content of files.
func archive(t *testing.T, entries ...tar.Header) string {
	t.Helper()
	var out strings.Builder
	tw := tar.NewWriter(&out)
	for _, h := range entries {
		content := ""
		if h.Typeflag == tar.TypeReg {
			content, h.Linkname, h.Size = h.Linkname, "", int64(len(h.Linkname))
		}
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestDiff(t *testing.T) {
	w := newWorld(t)
	file := func(name, content string, mode int64) tar.Header {
		return tar.Header{Typeflag: tar.TypeReg, Name: name, Linkname: content, Mode: mode}
	}
	link := func(name, to string) tar.Header {
		return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o755}
	}
	dir := tar.Header{Typeflag: tar.TypeDir, Name: "lib/", Mode: 0o755}
	a := w.upload(archive(t, link("a", "x"), dir, file("gone", "bye", 0o644), file("lib/same", "same", 0o644), file("main.py", "one", 0o644), file("tool", "x", 0o644)))
	b := w.upload(archive(t, link("a", "y"), dir, file("lib/new", "hi", 0o644), file("lib/same", "same", 0o644), file("main.py", "three", 0o644), file("tool", "x", 0o755)))
	w.gives(201, nil, "PUT", hello, deployBody(`{"runtime":"python3.9","memory":64,"env":{"A":"s3cret-1","B":"s3cret-2","C":"s3cret-3"}}`, a))
	w.alias(201, "POST", "/publish", "")
	w.gives(200, nil, "PUT", hello, deployBody(`{"runtime":"python3.11","timeouts":{"idle":"1m"},"auth":"key","env":{"B":"s3cret-4","C":"s3cret-3","D":"s3cret-5"}}`, b))

	var d lambent.Diff
	_, raw := w.do("GET", hello+"/diff?from=1&to=latest", "")
	if err := json.Unmarshal([]byte(raw), &d); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(raw, "s3cret") {
		t.Errorf("a value of the environment: %s", raw)
	}
	var settings []string
	for _, s := range d.Settings {
		settings = append(settings, fmt.Sprintf("%s %v %v", s.Field, s.From, s.To))
	}
	if want := []string{"auth <nil> key", "memory 64 256", "runtime python3.9 python3.11", "timeouts.idle 5m0s 1m0s"}; !slices.Equal(settings, want) {
		t.Errorf("settings %q, want %q", settings, want)
	}
	if fmt.Sprint(d.Env) != "{[D] [A] [B]}" || d.From.Code != a || d.To.Code != b || d.From.Root != "debian-12" {
		t.Errorf("diff %+v", d)
	}
	var files []string
	show := func(f *lambent.CodeFile) string {
		if f == nil {
			return "-"
		}
		return fmt.Sprintf("%d%s%.10s%v", f.Size, f.Link, f.Digest, f.Executable)
	}
	for _, f := range d.Files {
		files = append(files, f.Path+" "+show(f.From)+" "+show(f.To))
	}
	want := []string{ // digests: echo -n CONTENT | sha256sum
		"a 0xfalse 0yfalse", "gone 3sha256:b49false -", "lib/new - 2sha256:8f4false",
		"main.py 3sha256:769false 5sha256:8b5false", "tool 1sha256:2d7false 1sha256:2d7true",
	}
	if !slices.Equal(files, want) {
		t.Errorf("files %q, want %q", files, want)
	}

	if _, raw := w.do("GET", hello+"/diff?from=latest&to=latest", ""); !strings.Contains(raw, `"settings":[]`) ||
		!strings.Contains(raw, `"env":{"added":[],"removed":[],"changed":[]}`) || !strings.Contains(raw, `"files":[]`) {
		t.Errorf("no difference: %s", raw)
	}
	w.gives(200, nil, "PUT", hello, deployBody(`{"runtime":"go"}`, w.upload("no tar at all")))
	w.fails(lambent.CodeCodeUnavailable, "GET", hello+"/diff?from=1&to=latest", "")
}
