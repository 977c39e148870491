package system

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"lambent"
	"lambent/client"
	"lambent/daemon"
)

// memo keeps what is written to it.
type memo struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (m *memo) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.buf.Write(p)
}

func (m *memo) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.buf.String()
}

// as gives a client with a key of its own in namespace, and the key.
func (n *node) as(namespace string, role lambent.Role) (*client.Client, string) {
	n.t.Helper()
	k, err := n.client.CreateKey(n.t.Context(), namespace, "test-"+string(role), role)
	if err != nil {
		n.t.Fatal(err)
	}
	c, err := client.New(n.at.Control, k.Text)
	if err != nil {
		n.t.Fatal(err)
	}
	return c, k.Text
}

// deployAs deploys a Python handler to a namespace.
func (n *node) deployAs(c *client.Client, namespace, name, main string, secrets map[string]string) error {
	n.t.Helper()
	bundle, err := c.Upload(n.t.Context(), files{"main.py": main}.zip(n.t), nil)
	if err != nil {
		return err
	}
	_, err = c.Deploy(n.t.Context(), client.Deploy{Namespace: namespace, Name: name, Code: bundle.Digest,
		Settings: lambent.Settings{Runtime: "python", Secrets: secrets}})
	return err
}

func (n *node) invokeAs(c *client.Client, namespace, name, event string) (string, error) {
	n.t.Helper()
	answer, err := c.Invoke(n.t.Context(), namespace, name, "application/json", strings.NewReader(event))
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	return string(raw), err
}

// fetch reads a path of the control API, whatever it answers.
func (n *node) fetch(method, path, key, body string) (int, string) {
	n.t.Helper()
	req, err := http.NewRequestWithContext(n.t.Context(), method, n.at.Control+path, strings.NewReader(body))
	if err != nil {
		n.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	return resp.StatusCode, string(raw)
}

const reader = `
import os
TOKEN = os.environ["TOKEN"]
def handler(event, context):
    do = event.get("do")
    if do == "tell": return [TOKEN, open("/run/secrets/token").read()]
    if do == "print": print("my token is", TOKEN, "indeed")
    if do == "raise": raise ValueError("bad token " + TOKEN)
    if do == "exit":
        print("giving up on", TOKEN, flush=True)
        os._exit(3)
    return "ok"
`

// The spy looks wherever its sandbox lets it, for a text that it is given in two halves.
const spy = `
import os, stat
def look(path, needle):
    try:
        if stat.S_ISREG(os.stat(path).st_mode) or path.startswith("/proc/"):
            with open(path, "rb") as f:
                return needle in f.read(1 << 20)
    except OSError:
        pass
    return False
def handler(event, context):
    needle = (event["half"] + event["rest"]).encode()
    found, seen = [], 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for name in ["environ", "cmdline", "root/run/secrets/token", "cwd/run/secrets/token"]:
            seen += 1
            if look(f"/proc/{pid}/{name}", needle): found.append(f"/proc/{pid}/{name}")
    for top in ["/etc", "/tmp", "/dev/shm", "/var", "/run"]:
        for folder, _, names in os.walk(top):
            for name in names:
                seen += 1
                if look(os.path.join(folder, name), needle): found.append(os.path.join(folder, name))
    if needle in repr(os.environ).encode(): found.append("the environment")
    return {"found": found, "seen": seen}
`

// Attempts to get at a secret from where it should not be. The function that it is for has it, and nobody else.
func TestSecretAttempts(t *testing.T) {
	log := &memo{}
	dir := t.TempDir()
	n, err := tryStart(t, daemon.Config{Data: dir, Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	half, rest := "value-4f1c", "-of-the-token-99"
	value := half + rest
	admin, adminKey := n.as("team", lambent.RoleAdmin)
	deployer, deployKey := n.as("team", lambent.RoleDeploy)
	caller, callKey := n.as("team", lambent.RoleInvoke)
	stranger, strangerKey := n.as("other", lambent.RoleAdmin)
	if _, err := admin.SetSecret(ctx, "team", "token", strings.NewReader(value)); err != nil {
		t.Fatal(err)
	}
	uses := map[string]string{"TOKEN": "token", "/run/secrets/token": "token"}
	if err := n.deployAs(deployer, "team", "reader", reader, uses); err != nil {
		t.Fatal(err)
	}
	if told, err := n.invokeAs(caller, "team", "reader", `{"do": "tell"}`); err != nil || strings.Count(told, value) != 2 {
		t.Fatalf("the function itself has %s, %v: the attempts prove nothing", told, err)
	}
	hidden := func(t *testing.T, what, text string) {
		t.Helper()
		if strings.Contains(text, value) {
			t.Errorf("%s gives the secret away: %s", what, text)
		}
	}
	rootKey, err := os.ReadFile(n.at.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	root := strings.TrimSpace(string(rootKey))
	snoop := fmt.Sprintf(`{"half": %q, "rest": %q}`, half, rest)

	for _, attempt := range []struct {
		name string
		try  func(t *testing.T)
	}{
		{"AnotherFunctionOfTheNamespace", func(t *testing.T) {
			if err := n.deployAs(deployer, "team", "spy", spy, nil); err != nil {
				t.Fatal(err)
			}
			if got, err := n.invokeAs(caller, "team", "spy", snoop); err != nil || !strings.Contains(got, `"found":[]`) && !strings.Contains(got, `"found": []`) {
				t.Errorf("%s, %v", got, err)
			}
		}},
		{"AFunctionOfAnotherNamespace", func(t *testing.T) {
			if err := n.deployAs(stranger, "other", "spy", spy, nil); err != nil {
				t.Fatal(err)
			}
			if got, err := n.invokeAs(stranger, "other", "spy", snoop); err != nil || !strings.Contains(got, `"found":[]`) && !strings.Contains(got, `"found": []`) {
				t.Errorf("%s, %v", got, err)
			}
		}},
		{"NamedInAnotherNamespace", func(t *testing.T) {
			for _, name := range []string{"token", "team.token", "team/token", "../team/token", "token\x00", "TOKEN"} {
				if err := n.deployAs(stranger, "other", "thief", reader, map[string]string{"TOKEN": name}); !lambent.HasCode(err, lambent.CodeInvalidRequest) {
					t.Errorf("%q: %v", name, err)
				}
			}
		}},
		{"DeployedIntoTheNamespaceByAStranger", func(t *testing.T) {
			if err := n.deployAs(stranger, "team", "thief", reader, uses); !lambent.HasCode(err, lambent.CodeForbidden) {
				t.Error(err)
			}
		}},
		{"CalledByAStranger", func(t *testing.T) {
			if got, err := n.invokeAs(stranger, "team", "reader", `{"do": "tell"}`); !lambent.HasCode(err, lambent.CodeForbidden) {
				t.Errorf("%s, %v", got, err)
			}
		}},
		{"TheAPI", func(t *testing.T) {
			for _, path := range []string{"/v1/namespaces/team/secrets", "/v1/namespaces/team/secrets/token", "/v1/openapi.json", "/v1/functions",
				"/v1/namespaces/team/functions/reader", "/v1/namespaces/team/functions/reader/revisions", "/v1/namespaces/team/functions/reader/aliases",
				"/v1/system", "/v1/invocations", "/v1/namespaces/team/keys"} {
				for _, key := range []string{root, adminKey} {
					status, body := n.fetch("GET", path, key, "")
					if hidden(t, path, body); status != 200 {
						t.Errorf("%s: %d %s", path, status, body)
					}
				}
			}
		}},
		{"ARoleThatMayNotRead", func(t *testing.T) {
			for key, paths := range map[string][]string{callKey: {"", "/token"}, strangerKey: {"", "/token"}} {
				for _, path := range paths {
					if status, body := n.fetch("GET", "/v1/namespaces/team/secrets"+path, key, ""); status != 403 {
						t.Errorf("%s: %d %s", path, status, body)
					}
				}
			}
		}},
		{"ARoleThatMayNotWrite", func(t *testing.T) {
			for _, key := range []string{deployKey, callKey, strangerKey} {
				for method, path := range map[string]string{"PUT": "/v1/namespaces/team/secrets/token", "DELETE": "/v1/namespaces/team/secrets/token", "POST": "/v1/system/secrets/rotate"} {
					if status, body := n.fetch(method, path, key, "x"); status != 403 {
						t.Errorf("%s %s: %d %s", method, path, status, body)
					}
				}
			}
		}},
		{"TheDiff", func(t *testing.T) {
			if err := n.deployAs(deployer, "team", "reader", reader+"\n", uses); err != nil {
				t.Fatal(err)
			}
			revisions, err := deployer.Revisions(ctx, "team", "reader")
			if err != nil || len(revisions) != 2 {
				t.Fatal(revisions, err)
			}
			status, body := n.fetch("GET", "/v1/namespaces/team/functions/reader/diff?from="+revisions[0].ID+"&to="+revisions[1].ID, root, "")
			if hidden(t, "diff", body); status != 200 {
				t.Errorf("%d %s", status, body)
			}
		}},
		{"PrintedToTheLog", func(t *testing.T) {
			if _, err := n.invokeAs(caller, "team", "reader", `{"do": "print"}`); err != nil {
				t.Fatal(err)
			}
			_, body := n.fetch("GET", "/v1/namespaces/team/functions/reader/logs?tail=-1", root, "")
			if hidden(t, "the log", body); !strings.Contains(body, "my token is *** indeed") {
				t.Errorf("the log is %s", body)
			}
		}},
		{"RaisedAsAnError", func(t *testing.T) {
			_, err := n.invokeAs(deployer, "team", "reader", `{"do": "raise"}`)
			e := lambent.ErrorOf(err)
			if hidden(t, "the error", fmt.Sprint(e.Message, e.Trace)); e.Code != lambent.CodeHandlerError || !strings.Contains(e.Message, "bad token ***") || !strings.Contains(e.Trace, "***") {
				t.Errorf("%+v", e)
			}
			record, err := deployer.Invocation(ctx, e.Invocation)
			if err != nil {
				t.Fatal(err)
			}
			hidden(t, "the record", fmt.Sprintf("%+v %+v", record, record.Error))
			_, err = n.invokeAs(caller, "team", "reader", `{"do": "raise"}`)
			if e := lambent.ErrorOf(err); e.Trace != "" {
				t.Errorf("who may only invoke sees the trace %s", e.Trace)
			}
		}},
		{"LastWords", func(t *testing.T) {
			_, err := n.invokeAs(deployer, "team", "reader", `{"do": "exit"}`)
			if hidden(t, "the error", fmt.Sprintf("%+v", lambent.ErrorOf(err))); !lambent.HasCode(err, lambent.CodeInstanceExited) {
				t.Error(err)
			}
			_, body := n.fetch("GET", "/v1/namespaces/team/functions/reader/logs?tail=-1", root, "")
			if hidden(t, "the log", body); !strings.Contains(body, "giving up on ***") {
				t.Errorf("the log is %s", body)
			}
		}},
		{"AFailingStart", func(t *testing.T) {
			err := n.deployAs(deployer, "team", "broken", "import os\nprint(os.environ['TOKEN'])\nraise ValueError(os.environ['TOKEN'])", uses)
			e := lambent.ErrorOf(err)
			if hidden(t, "the error", fmt.Sprint(e.Message, e.Hint, e.Trace)); e.Code != lambent.CodeStartFailed || !strings.Contains(e.Message, "***") {
				t.Errorf("%+v", e)
			}
		}},
		{"MetricsAndProfiles", func(t *testing.T) {
			for _, path := range []string{"/metrics", "/debug/pprof/heap", "/debug/pprof/goroutine?debug=2", "/debug/pprof/cmdline", "/debug/pprof/allocs?debug=1"} {
				status, body := n.fetch("GET", path, root, "")
				if hidden(t, path, body); status != 200 {
					t.Errorf("%s: %d", path, status)
				}
				if status, _ := n.fetch("GET", path, adminKey, ""); status != 403 {
					t.Errorf("%s for the admin of a namespace: %d", path, status)
				}
			}
		}},
		{"ArgumentsOfProcesses", func(t *testing.T) {
			processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
			if err != nil || len(processes) == 0 {
				t.Fatal(err)
			}
			for _, path := range processes {
				if raw, err := os.ReadFile(path); err == nil {
					hidden(t, path, string(raw))
				}
			}
		}},
		{"FilesOfTheNode", func(t *testing.T) {
			if _, err := n.client.RotateSecrets(ctx); err != nil {
				t.Fatal(err)
			}
			if told, err := n.invokeAs(caller, "team", "reader", `{"do": "tell"}`); err != nil || strings.Count(told, value) != 2 {
				t.Errorf("after a rotation: %s, %v", told, err)
			}
			searched := 0
			err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
				if err != nil || !d.Type().IsRegular() {
					return nil // gone meanwhile, or a socket
				}
				raw, err := os.ReadFile(path)
				if err != nil {
					return nil
				}
				searched++
				hidden(t, path, string(raw))
				for _, key := range []string{adminKey, deployKey, callKey, strangerKey} {
					if bytes.Contains(raw, []byte(key)) {
						t.Errorf("%s holds a key", path)
					}
				}
				return nil
			})
			if err != nil || searched < 10 {
				t.Errorf("%d files, %v", searched, err)
			}
		}},
		{"TheLogOfTheNode", func(t *testing.T) {
			text := log.String()
			hidden(t, "the node's log", text)
			for _, key := range []string{root, adminKey, deployKey, callKey, strangerKey} {
				if strings.Contains(text, key) {
					t.Error("the node's log holds a key")
				}
			}
			if !strings.Contains(text, "operation=set-secret") || !strings.Contains(text, `by="key test-admin (admin in team)"`) {
				t.Errorf("it does not tell who set it: %s", text)
			}
		}},
		{"RemovedWhileItIsUsed", func(t *testing.T) {
			err := admin.DeleteSecret(ctx, "team", "token")
			if !lambent.HasCode(err, lambent.CodeConflict) || !strings.Contains(err.Error(), "reader:latest") {
				t.Error(err)
			}
		}},
		{"AfterItWasRemoved", func(t *testing.T) {
			if err := n.deployAs(deployer, "team", "reader", "def handler(event, context): return 'ok'", nil); err != nil {
				t.Fatal(err)
			}
			if err := admin.DeleteSecret(ctx, "team", "token"); err != nil {
				t.Fatal(err)
			}
			_, err := deployer.Rollback(ctx, "team", "reader", "", 0)
			if !lambent.HasCode(err, lambent.CodeStartFailed) || !strings.Contains(err.Error(), "there is no secret token") {
				t.Errorf("a revision that uses it: %v", err)
			}
			if err := n.deployAs(deployer, "team", "late", reader, uses); !lambent.HasCode(err, lambent.CodeInvalidRequest) {
				t.Errorf("a deploy that uses it: %v", err)
			}
		}},
		{"AKeyThatWasRemoved", func(t *testing.T) {
			if err := n.client.DeleteKey(ctx, "team", "test-admin"); err != nil {
				t.Fatal(err)
			}
			if _, err := admin.Secrets(ctx, "team"); !lambent.HasCode(err, lambent.CodeUnauthorized) {
				t.Error(err)
			}
		}},
		{"AKeyFileThatOthersCanRead", func(t *testing.T) {
			if err := n.stop(); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(filepath.Join(dir, "secret.key"), 0o640); err != nil {
				t.Fatal(err)
			}
			if _, err := tryStart(t, daemon.Config{Data: dir}); !lambent.HasCode(err, lambent.CodeForbidden) || !strings.Contains(err.Error(), "secret.key") {
				t.Error(err)
			}
		}},
	} {
		t.Run(attempt.name, attempt.try)
	}
}

// A value changes while the function is called: no call fails, and none that is sent after the change returned meets
// an older value.
func TestSecretChangesUnderLoad(t *testing.T) {
	n := start(t, t.TempDir())
	set := func(i int64) {
		t.Helper()
		if _, err := n.client.SetSecret(t.Context(), "default", "token", strings.NewReader(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	set(0)
	n.python("f", "import os\ndef handler(event, context): return {'statusCode': 200, 'body': os.environ['TOKEN']}", func(s *lambent.Settings) {
		s.Secrets = map[string]string{"TOKEN": "token"}
	})
	var changed, calls atomic.Int64
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				least, got := changed.Load(), int64(-1)
				a := n.call("GET", "/fn/f/", nil)
				if _, err := fmt.Sscan(a.body, &got); a.status != 200 || err != nil || got < least {
					t.Errorf("after change %d: %d %s", least, a.status, a.body)
				}
				calls.Add(1)
			}
		})
	}
	for i := range int64(10) {
		for before := calls.Load(); calls.Load() < before+20 && !t.Failed(); {
			n.call("GET", "/fn/f/", nil).want(t, 200, "")
		}
		set(i + 1)
		changed.Store(i + 1)
	}
	close(stop)
	wg.Wait()
	n.call("GET", "/fn/f/", nil).want(t, 200, "10")
}

// Keys at the functions listener: of the namespace, of another one, and gone.
func TestKeysAtTheGateway(t *testing.T) {
	n := start(t, t.TempDir())
	caller, key := n.as("team", lambent.RoleInvoke)
	_, strangerKey := n.as("other", lambent.RoleAdmin)
	bundle, err := n.client.Upload(t.Context(), files{"main.py": "def handler(event, context): return {'statusCode': 200, 'body': str(event['headers'].get('authorization'))}"}.zip(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.client.Deploy(t.Context(), client.Deploy{Namespace: "team", Name: "f", Code: bundle.Digest, Settings: lambent.Settings{Runtime: "python", Auth: lambent.AuthKey}}); err != nil {
		t.Fatal(err)
	}
	call := func(key string) answer {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "GET", n.at.Functions+"/fn/f.team/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if key != "" {
			req.Header.Set("Authorization", "Bearer "+key)
		}
		return n.do(req)
	}
	call("").want(t, 401, "unauthorized")
	call("lk_nonsense").want(t, 401, "unauthorized")
	call(key).want(t, 200, "None")
	call(strangerKey).want(t, 403, "may do nothing in namespace team")
	if _, err := caller.Secrets(t.Context(), "team"); !lambent.HasCode(err, lambent.CodeForbidden) {
		t.Error(err)
	}
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	n = start(t, n.dir) // keys outlive a restart
	call(key).want(t, 200, "None")
	if err := n.client.DeleteKey(t.Context(), "team", "test-invoke"); err != nil {
		t.Fatal(err)
	}
	call(key).want(t, 401, "unauthorized")
}
