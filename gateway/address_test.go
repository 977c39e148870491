package gateway

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"

	"lambent"
	"lambent/gateway/route"
)

// Custom routes lead to functions, and tell functions what was matched; a host that has some serves nothing else.
func TestCustomRoutes(t *testing.T) {
	table, routes := route.New(), &route.Routes{}
	rev := func(ns, name, auth string) *lambent.Revision {
		return &lambent.Revision{Namespace: ns, Function: name, ID: name, Settings: lambent.Settings{Auth: auth, MaxBody: -1}}
	}
	table.Set(&lambent.Function{Namespace: "team", Name: "api", Latest: rev("team", "api", "")})
	table.Set(&lambent.Function{Namespace: "team", Name: "closed", Latest: rev("team", "closed", lambent.AuthKey)})
	table.SetAlias(&lambent.Alias{Namespace: "team", Function: "api", Name: "prod", Targets: []lambent.Target{{Revision: rev("team", "old", ""), Weight: 1}}})
	for name, spec := range map[string]lambent.RouteSpec{
		"user":   {Host: "api.example", Path: "/users/{id}", Methods: []string{"GET"}, Function: "api"},
		"all":    {Host: "api.example", Path: "/v1/{rest...}", Function: "api", Alias: "prod", Strip: true},
		"closed": {Host: "api.example", Path: "/closed", Function: "closed"},
		"gone":   {Host: "api.example", Path: "/gone", Function: "gone"},
		"fn":     {Host: "api.example", Path: "/fn/x", Function: "api"},
		"any":    {Path: "/.well-known/{rest...}", Function: "api"},
	} {
		spec, err := spec.Complete()
		if err == nil {
			err = routes.Set(&lambent.Route{Namespace: "team", Name: name, RouteSpec: spec})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	routes.Publish()
	srv := httptest.NewServer(New(Options{Table: table, Routes: routes, Public: true, Authenticate: authenticate,
		Invoker: invokerFunc(func(_ context.Context, inv *lambent.Invocation) (*lambent.Response, error) {
			return text(200, strings.Join([]string{inv.Revision.ID, inv.Alias, inv.Target, inv.Route, inv.PathParameters.Encode()}, "|")), nil
		})}))
	t.Cleanup(srv.Close)
	for _, c := range []struct {
		method, host, path string
		status             int
		part               string
	}{
		{"GET", "api.example", "/users/a%20b?x=1", 200, "api|latest|/users/a%20b?x=1|GET /users/{id}|id=a+b"},
		{"GET", "API.Example.:8080", "/users/5", 200, "api|latest|/users/5|GET /users/{id}|id=5"},
		{"POST", "api.example", "/users/5", 405, "method_not_allowed"},
		{"PUT", "api.example", "/v1/a/b?c", 200, "old|prod|/a/b?c|ANY /v1/{rest...}|rest=a%2Fb"},
		{"GET", "api.example", "/v1/../users/5", 400, "more than one way"},
		{"GET", "api.example", "/none", 404, "not_found"},
		{"GET", "api.example", "/gone", 404, "function_not_found"},
		{"GET", "api.example", "/closed", 401, "unauthorized"},
		{"GET", "api.example", "/fn/api.team/", 404, "not_found"},
		{"GET", "api.example", "/fn/x", 200, "api|latest|/fn/x|ANY /fn/x|"},
		{"GET", "api.example", "/.well-known/x", 200, "api|latest|/.well-known/x|ANY /.well-known/{rest...}|rest=x"},
		{"GET", "other.example", "/.well-known/x", 200, "ANY /.well-known/{rest...}"},
		{"GET", "other.example", "/fn/api.team/users/5", 200, "api|latest|/users/5||"},
		{"GET", "api.team.localhost", "/.well-known/x", 200, "api|latest|/.well-known/x||"},
		{"GET", "other.example", "/users/5", 404, "not_found"},
		{"GET", "localhost", "/", 404, "not_found"},
		{"GET", "x.localhost", "/.well-known/x", 404, "not_found"},
	} {
		req := request(t, c.method, srv.URL, nil)
		req.URL.Opaque, req.Host = c.path, c.host
		resp, body := get(t, req)
		if resp.StatusCode != c.status || !strings.Contains(body, c.part) {
			t.Errorf("%s %s%s: %d %s, want %d %s", c.method, c.host, c.path, resp.StatusCode, body, c.status, c.part)
		}
		if allow := resp.Header.Get("Allow"); (allow == "GET, HEAD") != (c.status == 405) {
			t.Errorf("%s %s%s: Allow %q", c.method, c.host, c.path, allow)
		}
	}
}
