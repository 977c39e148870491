package control_test

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"lambent"
	"lambent/control"
	"lambent/control/controltest"
)

// least is the least role that each operation takes. What is not here is for the node's admin key.
var least = map[string]lambent.Role{
	"invoke": lambent.RoleInvoke,

	"deploy": lambent.RoleDeploy, "get-function": lambent.RoleDeploy, "delete-function": lambent.RoleDeploy, "list-functions": lambent.RoleDeploy,
	"list-revisions": lambent.RoleDeploy, "get-revision": lambent.RoleDeploy, "diff": lambent.RoleDeploy,
	"set-alias": lambent.RoleDeploy, "get-alias": lambent.RoleDeploy, "delete-alias": lambent.RoleDeploy, "list-aliases": lambent.RoleDeploy,
	"publish": lambent.RoleDeploy, "rollback": lambent.RoleDeploy,
	"put-code": lambent.RoleDeploy, "post-code": lambent.RoleDeploy, "has-code": lambent.RoleDeploy, "build": lambent.RoleDeploy,
	"read-logs": lambent.RoleDeploy, "list-invocations": lambent.RoleDeploy, "get-invocation": lambent.RoleDeploy,
	"set-route": lambent.RoleAdmin, "delete-route": lambent.RoleAdmin, "get-route": lambent.RoleDeploy, "list-routes": lambent.RoleDeploy,
	"get-system": lambent.RoleDeploy, "read-system-events": lambent.RoleDeploy,

	"list-secrets": lambent.RoleDeploy, "get-secret": lambent.RoleDeploy, // names and times
	"set-secret": lambent.RoleAdmin, "delete-secret": lambent.RoleAdmin,
	"create-key": lambent.RoleAdmin, "list-keys": lambent.RoleAdmin, "delete-key": lambent.RoleAdmin,
}

// team gives w a key of each role in the namespaces team and other, named "team deploy".
func (w *world) team() {
	for _, ns := range []string{"team", "other"} {
		for _, role := range []lambent.Role{lambent.RoleInvoke, lambent.RoleDeploy, lambent.RoleAdmin} {
			w.Keys[ns+"-"+string(role)] = lambent.Principal{Namespace: ns, Name: string(role), Role: role}
		}
	}
}

var parameter = regexp.MustCompile(`\{[a-z]+\}`)

// Every operation of the document, asked by a key of every role, in its namespace and in another one.
func TestRoles(t *testing.T) {
	w := newWorld(t)
	w.team()
	var doc struct {
		Paths map[string]map[string]struct {
			OperationID string `json:"operationId"`
		}
	}
	w.gives(200, &doc, "GET", "/v1/openapi.json", "")
	seen := map[string]bool{}
	for path, methods := range doc.Paths {
		for method, op := range methods {
			seen[op.OperationID] = true
			role, declared := least[op.OperationID]
			inTeam := strings.Contains(path, "{namespace}")
			url := strings.ReplaceAll(path, "{namespace}", "team")
			url = strings.ReplaceAll(url, "{digest}", noDigest)
			url = parameter.ReplaceAllString(url, "x")
			for key, who := range w.Keys {
				want := key == controltest.Key || declared && (who.Namespace == "team" || !inTeam) && who.Allows(who.Namespace, role)
				resp, body := w.do(strings.ToUpper(method), url, "{}", "Authorization", "Bearer "+key, "Content-Type", "application/json")
				if refused := resp.StatusCode == http.StatusForbidden; refused == want {
					t.Errorf("%s (%s %s) by %s: %s %s, want allowed %v", op.OperationID, method, url, who, resp.Status, body, want)
				}
			}
		}
	}
	for id := range least {
		if !seen[id] {
			t.Errorf("there is no operation %s", id)
		}
	}
	for _, path := range []string{"/metrics", "/debug/pprof/", "/debug/pprof/cmdline"} {
		for key := range w.Keys {
			resp, body := w.do("GET", path, "", "Authorization", "Bearer "+key)
			if (resp.StatusCode == http.StatusOK) != (key == controltest.Key) {
				t.Errorf("%s by %s: %s %s", path, key, resp.Status, body)
			}
		}
	}
}

// Names in a path are read once: what a router would take for another namespace is none.
func TestStrangeNamespaces(t *testing.T) {
	w := newWorld(t)
	w.team()
	for _, path := range []string{
		"/v1/namespaces/other/functions/f", "/v1/namespaces/team%2f..%2fother/functions/f", "/v1/namespaces/team/../other/functions/f",
		"/v1//namespaces/other/functions/f", "/v1/namespaces/%20/functions/f", "/v1/namespaces/TEAM/functions/f", "/v1/namespaces/team%00/functions/f",
	} {
		if resp, body := w.do("GET", path, "", "Authorization", "Bearer team-admin"); resp.StatusCode != http.StatusForbidden && resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s %s", path, resp.Status, body)
		} else if strings.Contains(body, "function_not_found") {
			t.Errorf("%s was looked up: %s", path, body)
		}
	}
}

func TestListsShowTheCallersNamespace(t *testing.T) {
	w := newWorld(t)
	w.team()
	digest := w.upload("code")
	for _, ns := range []string{"team", "other", "default"} {
		w.gives(201, nil, "PUT", "/v1/namespaces/"+ns+"/functions/f", deployBody(`{"runtime": "go"}`, digest))
		w.Records = append(w.Records, lambent.Record{ID: "of-" + ns, Namespace: ns, Function: "f"})
	}
	for _, query := range []string{"", "?namespace=team", "?after=aaa/x"} {
		var page control.Page
		w.gives(200, &page, "GET", "/v1/functions"+query, "", as("team-deploy")...)
		if len(page.Functions) != 1 || page.Functions[0].Namespace != "team" {
			t.Errorf("functions%s: %+v", query, page)
		}
	}
	var list control.Invocations
	w.gives(200, &list, "GET", "/v1/invocations?function=f", "", as("team-deploy")...)
	if len(list.Invocations) != 1 || list.Invocations[0].ID != "of-team" {
		t.Errorf("invocations: %+v", list)
	}
	w.fails(lambent.CodeForbidden, "GET", "/v1/functions?namespace=other", "", as("team-admin")...)
	w.fails(lambent.CodeForbidden, "GET", "/v1/invocations?namespace=other", "", as("team-admin")...)
	w.gives(200, nil, "GET", "/v1/invocations/of-team", "", as("team-deploy")...)
	w.fails(lambent.CodeNotFound, "GET", "/v1/invocations/of-other", "", as("team-admin")...)
	var system control.System
	w.gives(200, &system, "GET", "/v1/system", "", as("team-deploy")...)
	if len(system.Findings) != 0 || len(system.Runtimes) == 0 {
		raw, _ := json.Marshal(system)
		t.Errorf("system: %s", raw)
	}
}
