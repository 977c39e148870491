package system

import (
	"net/http"
	"strings"
	"testing"

	"lambent"
	"lambent/client"
)

// on calls a path of a host.
func (n *node) on(method, host, path string) answer {
	n.t.Helper()
	req, err := http.NewRequestWithContext(n.t.Context(), method, n.at.Functions, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	req.URL.Opaque, req.Host = path, host
	return n.do(req)
}

// A route that was set is there for the next request, and after a restart.
func TestCustomRoutes(t *testing.T) {
	n := start(t, t.TempDir())
	n.python("api", "def handler(event, context): return {'body': event['rawPath']}", nil)
	set := func(name string, spec lambent.RouteSpec) *lambent.Route {
		t.Helper()
		spec.Function = "api"
		r, err := n.client.SetRoute(t.Context(), client.SetRoute{Namespace: "default", Name: name, Spec: spec})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for _, version := range []string{"v1", "v2", "v3"} {
		set("api", lambent.RouteSpec{Host: "api.example", Path: "/" + version + "/{rest...}", Methods: []string{"GET"}, Strip: true})
		n.on("GET", "api.example", "/"+version+"/users/5").want(t, 200, "/users/5")
	}
	n.on("GET", "api.example", "/v2/users/5").wantError(t, lambent.CodeNotFound, lambent.FaultClient, "/v2/users/5")
	a := n.on("DELETE", "api.example", "/v3/users/5")
	a.wantError(t, lambent.CodeMethodNotAllowed, lambent.FaultClient, "DELETE")
	if a.status != 405 || a.header.Get("Allow") != "GET, HEAD" {
		t.Errorf("%d, Allow %q", a.status, a.header.Get("Allow"))
	}
	n.on("GET", "api.example", "/v3/%2e%2e/admin").wantError(t, lambent.CodeInvalidRequest, lambent.FaultClient, "more than one way")
	n.on("GET", "api.example", "/fn/api/").wantError(t, lambent.CodeNotFound, lambent.FaultClient, "")
	if err := n.client.DeleteRoute(t.Context(), "default", "api", 0); err != nil {
		t.Fatal(err)
	}
	n.on("GET", "api.example", "/v3/users/5").wantError(t, lambent.CodeNotFound, lambent.FaultClient, "")
	n.on("GET", "api.example", "/fn/api/").want(t, 200, "/") // the host is nobody's again
	set("api", lambent.RouteSpec{Host: "api.example", Path: "/v3/{rest...}", Strip: true})
	set("other", lambent.RouteSpec{Host: "*.other.example", Path: "/{rest...}"})
	dir := n.dir
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	n = start(t, dir)
	n.on("GET", "API.example:80", "/v3/again").want(t, 200, "/again")
	n.on("GET", "x.other.example", "/again").want(t, 200, "/again")
	if err := n.client.Delete(t.Context(), "default", "api", 0); err != nil {
		t.Fatal(err)
	}
	if a := n.on("GET", "api.example", "/v3/"); a.status != 404 || !strings.Contains(a.body, string(lambent.CodeFunctionNotFound)) {
		t.Errorf("a route to a function that was deleted: %d %s", a.status, a.body)
	}
}
