package route

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"

	"lambent"
)

// routed makes Routes of lines "METHODS HOST/PATH", each named by itself; METHODS is ANY or joined by commas.
func routed(tb testing.TB, lines ...string) *Routes {
	tb.Helper()
	t := &Routes{}
	for _, line := range lines {
		set(tb, t, parsed(tb, line))
	}
	t.Publish()
	return t
}

func set(tb testing.TB, t *Routes, r *lambent.Route) {
	tb.Helper()
	if err := t.Set(r); err != nil {
		tb.Fatal(err)
	}
}

func parsed(tb testing.TB, line string) *lambent.Route {
	tb.Helper()
	methods, at, _ := strings.Cut(line, " ")
	host, path, _ := strings.Cut(at, "/")
	spec := lambent.RouteSpec{Host: strings.TrimSuffix(host, "+"), Path: "/" + path, Function: "f", Strip: strings.HasSuffix(host, "+")}
	if methods != "ANY" {
		spec.Methods = strings.Split(methods, ",")
	}
	spec, err := spec.Complete()
	if err != nil {
		tb.Fatal(err)
	}
	return &lambent.Route{Namespace: "default", Name: line, RouteSpec: spec}
}

func TestFind(t *testing.T) {
	routes := routed(t,
		"ANY a.example/", "GET a.example/users", "POST a.example/users", "GET,PUT a.example/users/{id}", "ANY a.example/users/me",
		"GET a.example/users/{id}/posts/{post}", "ANY a.example/users/me/posts/", "DELETE a.example/users/me/posts/",
		"GET a.example/files/{rest...}", "ANY a.example/files/{a}/{b}", "ANY a.example/files/special/{rest...}",
		"ANY a.example/v1;beta", "ANY a.example/admin",
		"ANY *.example/wild", "ANY *.b.example/wild", "ANY c.b.example/own", "ANY /any/{rest...}", "ANY /wild",
	)
	for _, c := range []struct{ method, host, path, want string }{
		{"GET", "a.example", "/", "ANY a.example/"},
		{"GET", "a.example", "//", "ANY a.example/"},
		{"GET", "a.example", "", "unclear"},
		{"GET", "a.example", "/users", "GET a.example/users"},
		{"HEAD", "a.example", "/users", "GET a.example/users"},
		{"POST", "a.example", "/users", "POST a.example/users"},
		{"PATCH", "a.example", "/users", "allow GET, HEAD, POST"},
		{"GET", "a.example", "/users/", ""},
		{"PUT", "a.example", "/users/5", "GET,PUT a.example/users/{id}"},
		{"POST", "a.example", "/users/5", "allow GET, HEAD, PUT"},
		{"POST", "a.example", "/users/me", "ANY a.example/users/me"},
		{"GET", "a.example", "/Users/me", ""},
		{"GET", "a.example", "/users/5/posts/6", "GET a.example/users/{id}/posts/{post}"},
		{"GET", "a.example", "/users/5/posts/", ""},                                        // {post} is never empty
		{"GET", "a.example", "/users/me/posts/6", "GET a.example/users/{id}/posts/{post}"}, // me leads nowhere, {id} does
		{"GET", "a.example", "/users/me/posts/", "ANY a.example/users/me/posts/"},
		{"DELETE", "a.example", "/users/me/posts/", "DELETE a.example/users/me/posts/"},
		{"GET", "a.example", "/files", ""},
		{"GET", "a.example", "/files/", "GET a.example/files/{rest...}"},
		{"GET", "a.example", "/files/x", "GET a.example/files/{rest...}"},
		{"GET", "a.example", "/files/x/y", "ANY a.example/files/{a}/{b}"},
		{"GET", "a.example", "/files/x/y/z", "GET a.example/files/{rest...}"},
		{"GET", "a.example", "/files/special/y", "ANY a.example/files/special/{rest...}"},
		{"GET", "a.example", "/files/special", "GET a.example/files/{rest...}"},
		{"GET", "a.example", "/files/" + strings.Repeat("x/", 100), "GET a.example/files/{rest...}"},

		// What servers read differently must not lead past a route.
		{"GET", "a.example", "//users//5", "GET,PUT a.example/users/{id}"},
		{"GET", "a.example", "/%75sers/5", "GET,PUT a.example/users/{id}"},
		{"GET", "a.example", "/users%2F5", ""},
		{"GET", "a.example", "/users/5%2Fposts", "GET,PUT a.example/users/{id}"},
		{"GET", "a.example", "/users/5%2F..%2F6", "unclear"},
		{"GET", "a.example", "/files/../admin", "unclear"},
		{"GET", "a.example", "/files/./x", "unclear"},
		{"GET", "a.example", "/files/%2e%2E/admin", "unclear"},
		{"GET", "a.example", "/files/..%2fadmin", "unclear"},
		{"GET", "a.example", `/files/..\admin`, "unclear"},
		{"GET", "a.example", "/files/x%5c..%5cadmin", "unclear"},
		{"GET", "a.example", "/files/..;/admin", "unclear"},
		{"GET", "a.example", "/files/.;x=1/admin", "unclear"},
		{"GET", "a.example", "/files/x%00", "unclear"},
		{"GET", "a.example", "/files/x%0", "unclear"},
		{"GET", "a.example", "/files/...", "GET a.example/files/{rest...}"},
		{"GET", "a.example", "/files/.env", "GET a.example/files/{rest...}"},
		{"GET", "a.example", "/files/x%252e%252e", "GET a.example/files/{rest...}"}, // decoded once
		{"GET", "a.example", "/admin;x", ""},                                        // a semicolon is an ordinary character
		{"GET", "a.example", "/v1;beta", "ANY a.example/v1;beta"},
		{"GET", "a.example", "*", "unclear"},

		{"GET", "a.example", "/wild", "ANY *.example/wild"}, // a.example has no such path
		{"GET", "x.example", "/wild", "ANY *.example/wild"},
		{"GET", "x.y.example", "/wild", "ANY *.example/wild"},
		{"GET", "x.b.example", "/wild", "ANY *.b.example/wild"},
		{"GET", "c.b.example", "/wild", "ANY *.b.example/wild"},
		{"GET", "c.b.example", "/own", "ANY c.b.example/own"},
		{"GET", "example", "/wild", "ANY /wild"},
		{"GET", "", "/wild", "ANY /wild"},
		{"GET", "a.example", "/any/thing", "ANY /any/{rest...}"},
		{"GET", strings.Repeat("x.", 200) + "example", "/wild", "ANY /wild"},
	} {
		m := routes.Find(c.host, c.path, c.method)
		got := ""
		switch {
		case m.Route != nil:
			got = m.Route.Name
		case m.Unclear:
			got = "unclear"
		case m.Allow != "":
			got = "allow " + m.Allow
		}
		if got != c.want {
			t.Errorf("%s %s%s is %q, want %q", c.method, c.host, c.path, got, c.want)
		}
	}
	for host, want := range map[string]bool{"a.example": true, "x.example": true, "x.y.example": true, "example": false, "": false, "other": false} {
		if routes.Has(host) != want {
			t.Errorf("%q has routes of its own: %v", host, !want)
		}
	}
}

func TestParams(t *testing.T) {
	routes := routed(t, "ANY a/users/{id}/{what}", "ANY a/files/{rest...}", "ANY s+/app/{v}/{rest...}", "ANY a/none")
	for _, c := range []struct {
		host, path, target string
		want               url.Values
	}{
		{"a", "/users/5/a%20b", "/users/5/a%20b", url.Values{"id": {"5"}, "what": {"a b"}}},
		{"a", "//users/a%2Fb//x", "//users/a%2Fb//x", url.Values{"id": {"a/b"}, "what": {"x"}}},
		{"a", "/files/", "/files/", url.Values{"rest": {""}}},
		{"a", "/files/a//b/%C3%A4", "/files/a//b/%C3%A4", url.Values{"rest": {"a//b/ä"}}},
		{"s", "/app/1/", "/", url.Values{"v": {"1"}, "rest": {""}}},
		{"s", "/app/1/a%2Fb/c", "/a%2Fb/c", url.Values{"v": {"1"}, "rest": {"a/b/c"}}},
		{"s", "/app/1//evil.example", "/evil.example", url.Values{"v": {"1"}, "rest": {"evil.example"}}},
		{"a", "/none", "/none", nil},
	} {
		m := routes.Find(c.host, c.path, "GET")
		if m.Route == nil {
			t.Errorf("%s is not found", c.path)
			continue
		}
		if got := m.Params(); !maps.EqualFunc(got, c.want, slices.Equal) || (got == nil) != (c.want == nil) {
			t.Errorf("%s has the parameters %v, want %v", c.path, got, c.want)
		}
		if got := m.Target(); got != c.target {
			t.Errorf("the function sees %s as %s, want %s", c.path, got, c.target)
		}
	}
}

func TestChange(t *testing.T) {
	routes := routed(t, "ANY a/x")
	found := func(host, path string) bool { return routes.Find(host, path, "GET").Route != nil }
	moved := parsed(t, "ANY b/y")
	moved.Name = "ANY a/x"
	set(t, routes, moved)
	if !found("a", "/x") || found("b", "/y") {
		t.Error("a change took effect before Publish")
	}
	routes.Publish()
	if found("a", "/x") || routes.Has("a") || !found("b", "/y") {
		t.Error("a route that moved is not at its new place only")
	}
	routes.Delete("default", "none")
	routes.Delete("default", "ANY a/x")
	routes.Publish()
	routes.Publish()
	if found("b", "/y") || routes.hosts.Load() != nil || len(routes.all)+len(routes.at) != 0 {
		t.Errorf("something is left: %+v", routes.all)
	}
}

// FuzzFind: whatever the path, it is unclear or leads where its plain form leads.
func FuzzFind(f *testing.F) {
	routes := routed(f, "ANY a/{rest...}", "ANY a/admin", "ANY a/admin/{rest...}")
	for _, path := range []string{"/admin", "//admin/x", "/x/%2e%2e/admin", "/%61dmin", "/x/..;/admin", "/a%2Fb"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		m := routes.Find("a", path, "GET")
		u, err := url.ParseRequestURI("http://a" + path)
		if m.Unclear || err != nil || u.EscapedPath() != path || !strings.HasPrefix(path, "/") {
			return
		}
		if m.Route == nil {
			t.Fatalf("%q is lost", path)
		}
		if strings.ContainsAny(path, ";") || strings.Contains(strings.ToLower(path), "%2f") {
			return // no one plain form
		}
		admin := strings.HasPrefix(u.JoinPath().Path+"/", "/admin/")
		if strings.HasPrefix(m.Route.Path, "/admin") != admin {
			t.Fatalf("%q, which is plainly %q, goes to %s", path, u.JoinPath().Path, m.Route.Path)
		}
	})
}

func BenchmarkFind(b *testing.B) {
	many := &Routes{}
	for i := range 10000 {
		set(b, many, parsed(b, fmt.Sprintf("GET host%d.example/api/v%d/users/{id}/posts/{rest...}", i%100, i/100)))
	}
	many.Publish()
	one := &Routes{}
	for i := range 10000 {
		set(b, one, parsed(b, fmt.Sprintf("GET www.example/api/v%d/users/{id}/posts/{rest...}", i)))
	}
	one.Publish()
	for name, c := range map[string]struct {
		routes     *Routes
		host, path string
	}{
		"none":           {&Routes{}, "www.example", "/api/v50/users/5/posts/a/b"},
		"100hosts":       {many, "host50.example", "/api/v50/users/5/posts/a/b"},
		"1host":          {one, "www.example", "/api/v5000/users/5/posts/a/b"},
		"unclaimed host": {many, "127.0.0.1", "/fn/hello/x"},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !c.routes.Has(c.host) && c.path[:4] == "/fn/" {
					continue
				}
				if m := c.routes.Find(c.host, c.path, "GET"); m.Route == nil && name != "none" {
					b.Fatal(m)
				}
			}
		})
	}
	b.Run("publish one of 10000", func(b *testing.B) {
		r := parsed(b, "GET www.example/api/v1/users/{id}/posts/{rest...}")
		for b.Loop() {
			set(b, one, r)
			one.Publish()
		}
	})
}
