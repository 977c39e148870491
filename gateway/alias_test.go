package gateway

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"lambent"
	"lambent/gateway/route"
)

// openAliases serves the function hello, whose latest revision is 2, by what gives "ALIAS REVISION".
func openAliases(t *testing.T, settings []lambent.Settings, aliases ...*lambent.Alias) *httptest.Server {
	t.Helper()
	table := route.New()
	var revisions []*lambent.Revision
	for i, s := range settings {
		s.Runtime = "go"
		s, err := s.Complete()
		if err != nil {
			t.Fatal(err)
		}
		revisions = append(revisions, &lambent.Revision{Namespace: "default", Function: "hello", ID: fmt.Sprint(i), Settings: s})
	}
	table.Set(&lambent.Function{Namespace: "default", Name: "hello", Latest: revisions[len(revisions)-1]})
	for _, a := range aliases {
		a.Namespace, a.Function = "default", "hello"
		for i := range a.Targets {
			a.Targets[i].Revision = revisions[i]
		}
		table.SetAlias(a)
	}
	srv := httptest.NewServer(New(Options{Table: table, Routes: &route.Routes{}, Public: true,
		Authenticate: authenticate,
		Invoker: invokerFunc(func(_ context.Context, inv *lambent.Invocation) (*lambent.Response, error) {
			return text(200, inv.Alias+" "+inv.Revision.ID+" "+inv.Target), nil
		})}))
	t.Cleanup(srv.Close)
	return srv
}

func TestAliasAddress(t *testing.T) {
	srv := openAliases(t, make([]lambent.Settings, 2), &lambent.Alias{Name: "prod", Targets: make([]lambent.Target, 1)})
	for _, c := range []struct {
		host, path, want string
		status           int
	}{
		{"", "/fn/hello:prod", "prod 0 /", 200},
		{"", "/fn/hello:prod/a:b/c?d=e:f", "prod 0 /a:b/c?d=e:f", 200},
		{"", "/fn/hello.default:prod?x", "prod 0 /?x", 200},
		{"", "/fn/hello/:prod", "latest 1 /:prod", 200},
		{"", "/fn/hello:latest/", "latest 1 /", 200},
		{"hello.default.localhost", "/:prod", "latest 1 /:prod", 200},
		{"", "/fn/hello:dev/", `function \"hello\" has no alias \"dev\"`, 404},
		{"", "/fn/hello:dev/", "lambent alias ls hello", 404},
		{"", "/fn/hello:/", `has no alias \"\"`, 404},
		{"", "/fn/hello:prod:x/", `no alias \"prod:x\"`, 404},
		{"", "/fn/hello:prod.default/", `no alias \"prod.default\"`, 404},
		{"", "/fn/:prod/", "not_found", 404},
		{"", "/fn/nobody:prod/", "function_not_found", 404},
	} {
		req := request(t, "GET", srv.URL+c.path, nil)
		req.Host = c.host
		if resp, body := get(t, req); resp.StatusCode != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s%s: %d %s, want %s", c.host, c.path, resp.StatusCode, body, c.want)
		}
	}
}

func TestAliasWeights(t *testing.T) {
	const n, p = 4000, 0.75
	targets := func() []lambent.Target { return []lambent.Target{{Weight: 3}, {Weight: 1}} }
	srv := openAliases(t, make([]lambent.Settings, 2), &lambent.Alias{Name: "split", Targets: targets()},
		&lambent.Alias{Name: "header", Targets: targets(), Sticky: "header:X-User"},
		&lambent.Alias{Name: "query", Targets: targets(), Sticky: "query:user"})
	var wg sync.WaitGroup
	for _, alias := range []string{"split", "header", "query"} {
		wg.Go(func() {
			first := 0
			for i := range n {
				ask := func() string {
					req := request(t, "GET", fmt.Sprintf("%s/fn/hello:%s/?user=%d", srv.URL, alias, i), nil)
					req.Header.Set("X-User", fmt.Sprint(i))
					_, body := get(t, req)
					return body
				}
				answer := ask()
				if strings.HasPrefix(answer, alias+" 0") {
					first++
				}
				if alias == "split" || i%10 > 0 {
					continue
				}
				if again := ask(); again != answer {
					t.Errorf("%s: user %d had %s, then %s", alias, i, answer, again)
				}
			}
			if off := math.Abs(float64(first) - p*n); off > 5*math.Sqrt(n*p*(1-p)) {
				t.Errorf("%s: %d of %d met the revision of weight 3 of 4", alias, first, n)
			}
		})
	}
	wg.Wait()
}

// A function's older revisions are as closed as its latest, and each as closed as itself.
func TestAliasKeyed(t *testing.T) {
	public, keyed := lambent.Settings{Auth: lambent.AuthPublic}, lambent.Settings{Auth: lambent.AuthKey}
	for _, c := range []struct {
		old, latest lambent.Settings
		closed      bool
	}{{public, public, false}, {public, keyed, true}, {keyed, public, true}, {keyed, keyed, true}} {
		srv := openAliases(t, []lambent.Settings{c.old, c.latest}, &lambent.Alias{Name: "1", Targets: make([]lambent.Target, 1)})
		req := request(t, "GET", srv.URL+"/fn/hello:1/", nil)
		if resp, body := get(t, req); (resp.StatusCode == 401) != c.closed {
			t.Errorf("%+v: %d %s", c, resp.StatusCode, body)
		}
		req.Header.Set("Authorization", "Bearer k")
		if resp, body := get(t, req); resp.StatusCode != 200 {
			t.Errorf("%+v with the key: %d %s", c, resp.StatusCode, body)
		}
	}
}

// A request is routed by the table as it is, alias or not, without a lock or a copy.
func BenchmarkRoute(b *testing.B) {
	for _, alias := range []string{"", ":one", ":split", ":sticky"} {
		b.Run("hello"+alias, func(b *testing.B) {
			table := route.New()
			r := &lambent.Revision{Namespace: "default", Function: "hello", ID: "0123456789abcdef"}
			other := &lambent.Revision{Namespace: "default", Function: "hello", ID: "fedcba9876543210"}
			two := []lambent.Target{{Revision: r, Weight: 90}, {Revision: other, Weight: 10}}
			table.Set(&lambent.Function{Namespace: "default", Name: "hello", Latest: r})
			for _, a := range []lambent.Alias{{Name: "one", Targets: two[:1]}, {Name: "split", Targets: two}, {Name: "sticky", Targets: two, Sticky: "header:X-User"}} {
				a.Namespace, a.Function = "default", "hello"
				table.SetAlias(&a)
			}
			req := httptest.NewRequest("GET", "/fn/hello"+alias+"/path?x=1", nil)
			req.Header.Set("X-User", "ada")
			g := New(Options{Table: table, Routes: &route.Routes{}})
			header := http.Header{}
			b.ReportAllocs()
			for b.Loop() {
				at, _ := g.match(header, req)
				if f, ok := table.Lookup(at.namespace, at.name); !ok || f.Latest != r {
					b.Fatal("not found")
				}
				if a, ok := table.Alias(at.namespace, at.name, at.alias); ok {
					a.Pick(req.Header, at.target)
				}
			}
		})
	}
}
