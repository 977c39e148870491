// Package system tests whole daemons: real sandboxes, real store, real HTTP. It needs root, as the process
// tier does.
package system

import (
	"archive/zip"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"lambent"
	"lambent/client"
	"lambent/daemon"
)

// node is a daemon in this process.
type node struct {
	t      *testing.T
	dir    string
	at     daemon.Endpoints
	client *client.Client
	stop   func() error // once; what Run returned
}

// start runs a daemon on dir until the test ends.
func start(t *testing.T, dir string) *node {
	t.Helper()
	n, err := tryStart(t, daemon.Config{Data: dir})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func tryStart(t *testing.T, cfg daemon.Config) (*node, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	serving := make(chan daemon.Endpoints, 1)
	done := make(chan error, 1)
	cfg.Listen, cfg.Control, cfg.Version, cfg.Drain, cfg.Idle = "127.0.0.1:0", "127.0.0.1:0", "test", cmp.Or(cfg.Drain, 5*time.Second), time.Millisecond
	cfg.Serving = func(e daemon.Endpoints) { serving <- e }
	if testing.Verbose() && cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	go func() { done <- daemon.Run(ctx, cfg) }()
	n := &node{t: t, dir: cfg.Data}
	n.stop = sync.OnceValue(func() error { cancel(); return <-done })
	select {
	case err := <-done:
		cancel()
		return nil, err
	case n.at = <-serving:
	}
	t.Cleanup(func() {
		if err := n.stop(); err != nil {
			t.Errorf("the daemon ended with %v", err)
		}
	})
	key, err := os.ReadFile(n.at.KeyFile)
	if err != nil {
		return nil, err
	}
	n.client, err = client.New(n.at.Control, strings.TrimSpace(string(key)))
	return n, err
}

// files is the content of a bundle by path.
type files map[string]string

func (f files) zip(t *testing.T) *bytes.Reader {
	t.Helper()
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	for name, content := range f {
		h := &zip.FileHeader{Name: name, Method: zip.Deflate}
		h.SetMode(0o755)
		e, err := w.CreateHeader(h)
		if err == nil {
			_, err = io.WriteString(e, content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(buf.Bytes())
}

func (n *node) tryDeploy(name string, f files, s lambent.Settings) (*client.Deployment, error) {
	n.t.Helper()
	bundle, err := n.client.Upload(n.t.Context(), f.zip(n.t), nil)
	if err != nil {
		return nil, err
	}
	return n.client.Deploy(n.t.Context(), client.Deploy{Namespace: "default", Name: name, Settings: s, Code: bundle.Digest})
}

func (n *node) deploy(name string, f files, s lambent.Settings) *client.Deployment {
	n.t.Helper()
	d, err := n.tryDeploy(name, f, s)
	if err != nil {
		n.t.Fatalf("deploy %s: %+v", name, err)
	}
	return d
}

// python deploys a handler.
func (n *node) python(name, main string, change func(*lambent.Settings)) *client.Deployment {
	n.t.Helper()
	s := lambent.Settings{Runtime: "python"}
	if change != nil {
		change(&s)
	}
	return n.deploy(name, files{"main.py": main}, s)
}

// answer is what a call to a function gave.
type answer struct {
	status int
	header http.Header
	body   string
	err    *lambent.Error // when the body is one
}

func (n *node) call(method, path string, body io.Reader) answer {
	n.t.Helper()
	req, err := http.NewRequestWithContext(n.t.Context(), method, n.at.Functions+path, body)
	if err != nil {
		n.t.Fatal(err)
	}
	return n.do(req)
}

func (n *node) do(req *http.Request) answer {
	n.t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	a := answer{status: resp.StatusCode, header: resp.Header, body: string(raw)}
	var wrapped struct{ Error *lambent.Error }
	if json.Unmarshal(raw, &wrapped) == nil {
		a.err = wrapped.Error
	}
	return a
}

func (a answer) want(t *testing.T, status int, part string) {
	t.Helper()
	if a.status != status || !strings.Contains(a.body, part) {
		t.Errorf("got %d %s, want %d with %q", a.status, a.body, status, part)
	}
}

func (a answer) wantError(t *testing.T, code lambent.Code, fault lambent.Fault, part string) {
	t.Helper()
	if a.err == nil || a.err.Code != code || a.err.Fault != fault || !strings.Contains(a.err.Message, part) {
		t.Errorf("got %d %s, want %s, fault %s, with %q", a.status, a.body, code, fault, part)
	}
}

// record waits until the record of an invocation is there.
func (n *node) record(id string) *lambent.Record {
	n.t.Helper()
	for range 200 {
		r, err := n.client.Invocation(n.t.Context(), id)
		if err == nil {
			return r
		}
		if !lambent.HasCode(err, lambent.CodeNotFound) {
			n.t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	n.t.Fatalf("no record of %s after 2 s", id)
	return nil
}

// lines gives the log lines of a function so far that hold part.
func (n *node) lines(name, part string) []lambent.LogLine {
	n.t.Helper()
	var out []lambent.LogLine
	for line, err := range n.client.Logs(n.t.Context(), "default", name, client.LogQuery{Tail: -1}) {
		if err != nil {
			n.t.Fatal(err)
		}
		if strings.Contains(line.Text, part) {
			out = append(out, line)
		}
	}
	return out
}

// build compiles the Go program in dir to a static executable.
func build(t *testing.T, dir string) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "main")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", bin, ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	raw, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func readJSON(t *testing.T, path string, into any) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(raw, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}
