package control_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"lambent"
	"lambent/control"
)

const routesURL = "/v1/namespaces/team/routes"

func (w *world) route(status int, name, body string, header ...string) *lambent.Route {
	w.t.Helper()
	r := &lambent.Route{}
	resp := w.gives(status, r, "PUT", routesURL+"/"+name, body, header...)
	if resp.Header.Get("ETag") != fmt.Sprintf(`"%d"`, r.Version) {
		w.t.Errorf("ETag %s of version %d", resp.Header.Get("ETag"), r.Version)
	}
	return r
}

func newRoutes(t *testing.T) *world {
	w := newWorld(t)
	w.team()
	digest := w.upload("code")
	for _, ns := range []string{"team", "other"} {
		w.gives(201, nil, "PUT", "/v1/namespaces/"+ns+"/functions/f", deployBody(`{"runtime": "go"}`, digest))
	}
	return w
}

func TestRoutes(t *testing.T) {
	w := newRoutes(t)
	made := w.route(201, "users", `{"host": "API.example.", "path": "/users/{id}", "methods": ["PUT", "GET"], "function": "f"}`)
	if made.Namespace != "team" || made.Name != "users" || made.Host != "api.example" || made.Alias != "latest" || strings.Join(made.Methods, " ") != "GET PUT" || made.Updated.IsZero() {
		t.Errorf("made %+v", made)
	}
	same := w.route(200, "users", `{"host": "api.example", "path": "/users/{id}", "methods": ["GET", "PUT"], "function": "f", "alias": "latest"}`)
	if same.Version != made.Version {
		t.Errorf("the same again: %+v", same)
	}
	w.fails(lambent.CodeConflict, "PUT", routesURL+"/users", `{"path": "/", "function": "f"}`, "If-None-Match", "*")
	w.fails(lambent.CodeConflict, "PUT", routesURL+"/users", `{"path": "/", "function": "f"}`, "If-Match", `"1"`)
	w.fails(lambent.CodeConflict, "PUT", routesURL+"/new", `{"path": "/", "function": "f"}`, "If-Match", `"1"`)
	moved := w.route(200, "users", `{"host": "api.example", "path": "/people/{id}", "function": "f"}`, "If-Match", fmt.Sprintf(`"%d"`, made.Version))
	if moved.Version <= made.Version || moved.Path != "/people/{id}" || moved.Methods != nil {
		t.Errorf("moved %+v", moved)
	}
	w.route(201, "first", `{"path": "/first", "function": "f"}`)
	var list control.Routes
	w.gives(200, &list, "GET", routesURL, "")
	if len(list.Routes) != 2 || list.Routes[0].Name != "first" || list.Routes[1].Path != "/people/{id}" {
		t.Errorf("list %+v", list.Routes)
	}
	var got lambent.Route
	w.gives(200, &got, "GET", routesURL+"/users", "")
	if got.Version != moved.Version {
		t.Errorf("got %+v", got)
	}
	w.fails(lambent.CodeConflict, "DELETE", routesURL+"/users", "", "If-Match", `"1"`)
	w.gives(204, nil, "DELETE", routesURL+"/users", "")
	w.fails(lambent.CodeNotFound, "GET", routesURL+"/users", "")
	w.fails(lambent.CodeNotFound, "DELETE", routesURL+"/users", "")
	w.gives(204, nil, "DELETE", "/v1/namespaces/team/functions/f", "") // the route stays; the gateway says that there is no function
	w.gives(200, nil, "GET", routesURL+"/first", "")
}

func TestRouteMistakes(t *testing.T) {
	w := newRoutes(t)
	for body, part := range map[string]string{
		`{"path": "x", "function": "f"}`:                        "body.path: \"x\" is no path",
		`{"path": "/", "host": "f.localhost", "function": "f"}`: "body.host: f.localhost is the platform's own",
		`{"path": "/", "methods": ["get"], "function": "f"}`:    "body.methods: \"get\" is no method",
		`{"path": "/", "strip": true, "function": "f"}`:         "body.strip: ",
		`{"path": "/fn/{rest...}", "function": "f"}`:            "body.path: /fn/ is",
		`{"path": "/", "function": "f", "hots": "a"}`:           "hots",
		`{"path": "/"}`: "function",
	} {
		if e := w.fails(lambent.CodeInvalidRequest, "PUT", routesURL+"/r", body); !strings.Contains(e.Message, part) {
			t.Errorf("%s: %v", body, e)
		} else if part == "hots" && e.Hint != "did you mean host?" {
			t.Errorf("hint %q", e.Hint)
		}
	}
	w.fails(lambent.CodeFunctionNotFound, "PUT", routesURL+"/r", `{"path": "/", "function": "none"}`)
	w.fails(lambent.CodeNotFound, "PUT", routesURL+"/r", `{"path": "/", "function": "f", "alias": "prod"}`)
	w.fails(lambent.CodeInvalidRequest, "PUT", routesURL+"/R", `{"path": "/", "function": "f"}`)
	w.fails(lambent.CodeInvalidRequest, "GET", "/v1/namespaces/T/routes", "")
}

// What a host and path lead to is decided once: one route has them, and one namespace the host.
func TestRouteConflicts(t *testing.T) {
	w := newRoutes(t)
	as := func(key string) []string { return []string{"Authorization", "Bearer " + key} }
	w.route(201, "r", `{"host": "a.example", "path": "/{x}", "methods": ["GET"], "function": "f"}`, as("team-admin")...)
	if e := w.fails(lambent.CodeConflict, "PUT", routesURL+"/s", `{"host": "a.example", "path": "/{y}", "methods": ["GET", "PUT"], "function": "f"}`); !strings.Contains(e.Message, "route r is for GET a.example/{x} already") {
		t.Error(e)
	}
	w.route(201, "s", `{"host": "a.example", "path": "/{y}", "function": "f"}`)
	w.route(201, "wild", `{"host": "*.wild.example", "path": "/", "function": "f"}`)

	const other = "/v1/namespaces/other/routes/r"
	for _, host := range []string{"a.example", "*.example", "x.wild.example", "*.x.wild.example", "*.wild.example"} {
		e := w.fails(lambent.CodeConflict, "PUT", other, `{"host": "`+host+`", "path": "/other", "function": "f"}`)
		if all := e.Error(); !strings.Contains(all, host+" is taken") || strings.Contains(all, "team") {
			t.Error(all)
		}
	}
	w.gives(201, nil, "PUT", other, `{"host": "wild.example", "path": "/", "function": "f"}`, as("other-admin")...)
	for _, host := range []string{"", "*.com", "*.co.uk", "*.Other.Example."} {
		e := w.fails(lambent.CodeForbidden, "PUT", other, `{"host": "`+host+`", "path": "/everywhere", "function": "f"}`, as("other-admin")...)
		if !strings.Contains(e.Hint, "the node's admin key") {
			t.Error(e)
		}
	}
	w.gives(200, nil, "PUT", other, `{"path": "/everywhere", "function": "f"}`)
	w.fails(lambent.CodeConflict, "PUT", routesURL+"/t", `{"path": "/everywhere", "function": "f"}`)
	w.route(201, "t", `{"path": "/elsewhere", "function": "f"}`)

	// Namespaces that claim a host at the same time: one gets it.
	var wg sync.WaitGroup
	codes := make(chan int, 8)
	for i := range cap(codes) {
		wg.Go(func() {
			resp, _ := w.do("PUT", fmt.Sprintf("/v1/namespaces/%s/routes/race%d", []string{"team", "other"}[i%2], i),
				fmt.Sprintf(`{"host": "race.example", "path": "/%d", "function": "f"}`, i/2))
			codes <- resp.StatusCode
		})
	}
	wg.Wait()
	close(codes)
	count := map[int]int{}
	for code := range codes {
		count[code]++
	}
	if count[201] != 4 || count[409] != 4 {
		t.Errorf("got %v", count)
	}
}

// A record that cannot be read is in the way of nobody's routes, and may be set again or deleted. One that today's
// rules would refuse is a route like others.
func TestDamagedRoute(t *testing.T) {
	w := newRoutes(t)
	stored := func(name, value string) {
		t.Helper()
		if _, err := w.Store.Put(t.Context(), "route.team."+name, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	stored("old", `{"namespace": "team", "name": "old", "host": "old.example", "path": "/", "methods": ["X!"], "function": "f", "alias": "latest"}`)
	w.gives(200, nil, "GET", routesURL+"/old", "")
	for name, value := range map[string]string{"json": "oops", "moved": `{"namespace": "other", "name": "moved", "path": "/", "function": "f"}`} {
		stored(name, value)
		if e := w.fails(lambent.CodeInternal, "GET", routesURL+"/"+name, ""); !strings.Contains(e.Message, "route.team."+name) {
			t.Error(e)
		}
		w.route(201, "beside-"+name, `{"host": "a.example", "path": "/`+name+`", "function": "f"}`)
		w.gives(201, nil, "PUT", "/v1/namespaces/other/routes/"+name, `{"host": "b.example", "path": "/`+name+`", "function": "f"}`)
		w.fails(lambent.CodeConflict, "PUT", routesURL+"/"+name, `{"path": "/x", "function": "f"}`, "If-None-Match", "*")
		w.fails(lambent.CodeConflict, "DELETE", routesURL+"/"+name, "", "If-Match", `"1"`)
	}
	w.route(200, "json", `{"host": "a.example", "path": "/again", "function": "f"}`)
	w.gives(204, nil, "DELETE", routesURL+"/moved", "")
	w.gives(200, nil, "GET", routesURL, "")
}
