package control_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"lambent"
	"lambent/control"
	"lambent/control/controltest"
)

func as(key string) []string { return []string{"Authorization", "Bearer " + key} }

func TestKeys(t *testing.T) {
	w := newWorld(t)
	const keys = "/v1/namespaces/team/keys"
	var made control.NewKey
	resp := w.gives(201, &made, "POST", keys, `{"name": "ci", "role": "deploy"}`)
	if !strings.HasPrefix(made.Text, "lk_") || made.Role != lambent.RoleDeploy || made.Namespace != "team" || resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%+v, %v", made, resp.Header)
	}
	w.fails(lambent.CodeConflict, "POST", keys, `{"name": "ci", "role": "admin"}`)
	_, list := w.do("GET", keys, "")
	if !strings.Contains(list, `"name":"ci"`) || strings.Contains(list, made.Text) || strings.Contains(list, "sum") || strings.Contains(list, "text") {
		t.Errorf("list: %s", list)
	}
	for e, err := range w.Store.List(t.Context(), "") {
		if err != nil || strings.Contains(string(e.Value), made.Text) {
			t.Errorf("the store holds the key: %s %v", e.Value, err)
		}
	}

	w.gives(200, nil, "GET", "/v1/functions", "", as(made.Text)...)
	w.fails(lambent.CodeForbidden, "GET", keys, "", as(made.Text)...)
	w.fails(lambent.CodeForbidden, "POST", keys, `{"name": "more", "role": "invoke"}`, as(made.Text)...)
	var boss control.NewKey
	w.gives(201, &boss, "POST", keys, `{"name": "boss", "role": "admin"}`)
	w.gives(201, nil, "POST", keys, `{"name": "web", "role": "invoke"}`, as(boss.Text)...)
	w.fails(lambent.CodeForbidden, "POST", "/v1/namespaces/other/keys", `{"name": "web", "role": "invoke"}`, as(boss.Text)...)

	w.gives(204, nil, "DELETE", keys+"/ci", "", as(boss.Text)...)
	w.fails(lambent.CodeUnauthorized, "GET", "/v1/functions", "", as(made.Text)...)
	w.fails(lambent.CodeNotFound, "DELETE", keys+"/ci", "")
	w.gives(201, nil, "POST", keys, `{"name": "ci", "role": "deploy"}`)
	w.fails(lambent.CodeUnauthorized, "GET", "/v1/functions", "", as(made.Text)...)

	for body, part := range map[string]string{
		`{"name": "x", "role": "root"}`:                 `"root" is no role`,
		`{"name": "x", "role": ""}`:                     `"" is no role`,
		`{"name": "X", "role": "invoke"}`:               `"X" is no valid key name`,
		`{"name": "x"}`:                                 "role",
		`{"name": "x", "role": "invoke", "rloe": "x"}`:  "rloe",
		`{"name": "x", "role": "invoke", "text": "lk"}`: "text",
	} {
		if e := w.fails(lambent.CodeInvalidRequest, "POST", keys, body); !strings.Contains(e.Message, part) {
			t.Errorf("%s: %s", body, e.Message)
		}
	}
}

// A digest that another namespace has uploaded is none that a key may deploy, read or ask for.
func TestCodeOfAnotherNamespace(t *testing.T) {
	w := newWorld(t)
	w.team()
	var b control.Bundle
	w.gives(200, &b, "PUT", "/v1/code", "their code", as("other-deploy")...)
	head := func(key string) int {
		resp, _ := w.do("HEAD", "/v1/code/"+b.Digest, "", as(key)...)
		return resp.StatusCode
	}
	if a, o, n := head("team-deploy"), head("other-deploy"), head("lk_test"); a != 404 || o != 200 || n != 200 {
		t.Errorf("there for another namespace %d, for its own %d, for the node's admin %d", a, o, n)
	}
	const mine = "/v1/namespaces/team/functions/f"
	e := w.fails(lambent.CodeNotFound, "PUT", mine, deployBody(`{"runtime": "go"}`, b.Digest), as("team-admin")...)
	if !strings.Contains(e.Message, "there is no bundle") {
		t.Error(e)
	}
	var own control.Bundle
	w.gives(200, &own, "PUT", "/v1/code", "my code", as("team-deploy")...)
	body := `{"settings": {"runtime": "go"}, "code": "` + own.Digest + `", "source": "` + b.Digest + `"}`
	if e := w.fails(lambent.CodeNotFound, "PUT", mine, body, as("team-admin")...); !strings.Contains(e.Message, "body.source: there is no bundle") {
		t.Error(e)
	}
	w.gives(200, nil, "PUT", "/v1/code", "their code", as("team-deploy")...) // who has the code has the code
	w.gives(201, nil, "PUT", mine, deployBody(`{"runtime": "go"}`, b.Digest), as("team-admin")...)
}

func TestAudit(t *testing.T) {
	w := newWorld(t)
	w.team()
	w.do("PUT", "/v1/namespaces/team/secrets/token", "the value itself", as("team-admin")...)
	w.do("PUT", "/v1/namespaces/other/secrets/token", "the value itself", as("team-admin")...)
	w.do("GET", "/v1/namespaces/team/secrets/token", "", as("team-admin")...)
	log := w.Log()
	for _, want := range []string{
		`msg=audit operation=set-secret path=/v1/namespaces/team/secrets/token by="key admin (admin in team)" refused=false status=201`,
		`msg=audit operation=set-secret path=/v1/namespaces/other/secrets/token by="key admin (admin in team)" refused=true status=403`,
	} {
		if !strings.Contains(log, want) {
			t.Errorf("%q is not in the log: %s", want, log)
		}
	}
	if strings.Contains(log, "get-secret") || strings.Contains(log, "the value") || strings.Contains(log, "team-admin") {
		t.Errorf("the log says too much: %s", log)
	}
}

func TestSecrets(t *testing.T) {
	w := newWorld(t)
	w.team()
	const path = "/v1/namespaces/team/secrets/token"
	var s lambent.Secret
	w.gives(201, &s, "PUT", path, "the value itself", as("team-admin")...)
	w.gives(200, &s, "PUT", path, "\x00\xff another one", as("team-admin")...)
	if s.Version != 2 || s.Name != "token" || s.Updated.IsZero() {
		t.Errorf("%+v", s)
	}
	for _, get := range []string{path, "/v1/namespaces/team/secrets"} {
		for _, key := range []string{"lk_test", "team-admin", "team-deploy"} {
			resp, body := w.do("GET", get, "", as(key)...)
			if resp.StatusCode != http.StatusOK || !strings.Contains(body, `"version":2`) || strings.Contains(body, "another") ||
				strings.Contains(body, "sealed") || strings.Contains(body, "data") {
				t.Errorf("%s by %s: %s %s", get, key, resp.Status, body)
			}
		}
	}
	w.fails(lambent.CodeInvalidRequest, "PUT", path, "")
	w.fails(lambent.CodeBodyTooLarge, "PUT", path, strings.Repeat("x", lambent.MaxSecret+1))
	w.gives(200, nil, "PUT", path, strings.Repeat("x", lambent.MaxSecret))
	w.fails(lambent.CodeInvalidRequest, "PUT", "/v1/namespaces/team/secrets/Token", "x")
	w.fails(lambent.CodeInvalidRequest, "PUT", "/v1/namespaces/te.am/secrets/token", "x")
	w.fails(lambent.CodeNotFound, "GET", "/v1/namespaces/team/secrets/none", "")
	w.fails(lambent.CodeNotFound, "DELETE", "/v1/namespaces/team/secrets/none", "")
	var rotated control.Rotation
	if w.gives(200, &rotated, "POST", "/v1/system/secrets/rotate", ""); rotated.Secrets != 1 {
		t.Errorf("%+v", rotated)
	}
}

func TestSecretsOfFunctions(t *testing.T) {
	w := newWorld(t)
	digest := w.upload("code")
	const ns = "/v1/namespaces/team"
	uses := deployBody(`{"runtime": "go", "secrets": {"TOKEN": "token"}}`, digest)
	e := w.fails(lambent.CodeInvalidRequest, "PUT", ns+"/functions/f", uses)
	if e.Message != "body.settings.secrets.TOKEN: there is no secret token in namespace team" || !strings.Contains(e.Hint, "lambent secret set token") {
		t.Errorf("%+v", e)
	}
	w.gives(201, nil, "PUT", "/v1/namespaces/other/secrets/token", "theirs")
	w.fails(lambent.CodeInvalidRequest, "PUT", ns+"/functions/f", uses)

	w.gives(201, nil, "PUT", ns+"/secrets/token", "mine")
	w.gives(201, nil, "PUT", ns+"/functions/f", uses)
	w.gives(201, nil, "PUT", ns+"/functions/g", deployBody(`{"runtime": "go"}`, digest))
	w.gives(201, nil, "POST", ns+"/functions/f/publish", "")
	w.gives(200, nil, "PUT", ns+"/secrets/token", "new")
	if len(w.Refreshed) != 1 || w.Refreshed[0] != "team/f" {
		t.Errorf("refreshed %v", w.Refreshed)
	}
	e = w.fails(lambent.CodeConflict, "DELETE", ns+"/secrets/token", "")
	if !strings.Contains(e.Message, "f:1, f:latest") {
		t.Error(e)
	}
	w.gives(200, nil, "PUT", ns+"/functions/f", deployBody(`{"runtime": "go"}`, digest))
	e = w.fails(lambent.CodeConflict, "DELETE", ns+"/secrets/token", "")
	if !strings.Contains(e.Message, "is used by f:1") || strings.Contains(e.Message, "latest") {
		t.Error(e)
	}
	w.gives(204, nil, "DELETE", ns+"/functions/f", "")
	w.gives(204, nil, "DELETE", ns+"/secrets/token", "")
	w.fails(lambent.CodeInvalidRequest, "PUT", ns+"/functions/f", uses)
}

// A secret is deleted while what names it waits for an instance: either it stays, or nothing comes to name it.
func TestSecretDeletedMeanwhile(t *testing.T) {
	w := newWorld(t)
	digest := w.upload("code")
	const ns = "/v1/namespaces/team"
	const secret = ns + "/secrets/token"
	uses := deployBody(`{"runtime": "go", "secrets": {"TOKEN": "token"}}`, digest)
	usesNot := deployBody(`{"runtime": "go"}`, digest)
	missing := func(method, path, body string) {
		t.Helper()
		ready := w.Ready
		w.Ready = func(ctx context.Context, r *lambent.Revision) (lambent.Phases, error) {
			w.do("DELETE", secret, "")
			return ready(ctx, r)
		}
		if e := w.fails(lambent.CodeInvalidRequest, method, path, body); !strings.Contains(e.Message, "secrets.TOKEN: there is no secret token") {
			t.Error(e)
		}
		w.Ready = ready
		w.gives(201, nil, "PUT", secret, "value")
	}
	w.gives(201, nil, "PUT", secret, "value")
	missing("PUT", ns+"/functions/f", uses)
	w.fails(lambent.CodeFunctionNotFound, "GET", ns+"/functions/f", "")
	var first control.Deployment
	w.gives(201, &first, "PUT", ns+"/functions/f", uses)
	w.gives(200, nil, "PUT", ns+"/functions/f", usesNot)
	missing("POST", ns+"/functions/f/rollback", "")
	missing("PUT", ns+"/functions/f/aliases/prod", `{"targets": [{"revision": "`+first.Function.Latest.ID+`", "weight": 1}]}`)
	w.fails(lambent.CodeNotFound, "GET", ns+"/functions/f/aliases/prod", "")

	for round := range 20 {
		path := fmt.Sprint(ns, "/functions/g", round)
		var wg sync.WaitGroup
		wg.Go(func() { w.do("PUT", path, uses) })
		wg.Go(func() { w.do("DELETE", secret, "") })
		wg.Wait()
		deployed, _ := w.do("GET", path, "")
		there, _ := w.do("GET", secret, "")
		if deployed.StatusCode == http.StatusOK && there.StatusCode != http.StatusOK {
			t.Fatal("what is deployed names a secret that is gone")
		}
		w.do("DELETE", path, "")
		w.do("PUT", secret, "value")
	}
}

// leaving is secrets whose client leaves while one is set.
type leaving struct {
	control.Secrets
	leave func()
}

func (l leaving) Set(ctx context.Context, _, _ string, _ []byte) (*lambent.Secret, error) {
	l.leave()
	return &lambent.Secret{Version: 2}, ctx.Err()
}

// A value that was stored is met by what runs, also when nobody waits for the answer.
func TestSecretOfOneWhoLeft(t *testing.T) {
	var cancel context.CancelFunc
	refreshed := false
	api := control.New(control.Options{
		Secrets:      leaving{leave: func() { cancel() }},
		Refresh:      func(func(*lambent.Revision) bool) { refreshed = true },
		Authenticate: func(*http.Request) (lambent.Principal, bool) { return lambent.Principal{Role: lambent.RoleAdmin}, true },
		Metrics:      http.NotFoundHandler(),
		Logger:       slog.New(slog.DiscardHandler),
	})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var ctx context.Context
		ctx, cancel = context.WithCancel(r.Context())
		api.ServeHTTP(w, r.WithContext(ctx))
	}))
	defer s.Close()
	w := &world{&controltest.World{URL: s.URL}, t}
	w.do("PUT", "/v1/namespaces/team/secrets/token", "value")
	if !refreshed {
		t.Error("the instances keep the old value")
	}
}
