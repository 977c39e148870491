// Package durability breaks the disk under a real daemon, and kills it at each of its writes: what it has acknowledged
// is there after all, and what it could not do is said. It needs root, as the process tier does.
package durability

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lambent"
	"lambent/client"
	"lambent/test/fault"
)

// built is where TestMain has put the programs.
var built string

func TestMain(m *testing.M) {
	fault.Launch()
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "durability-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	cmd := exec.Command("go", "build", "-o", dir, "lambent/cmd/lambent", "lambent/cmd/lambent-init", "lambent/cmd/lambent-exec")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v: %s", err, out)
		return 1
	}
	built = dir
	return m.Run()
}

// node is a daemon that is a process of its own.
type node struct {
	t      *testing.T
	dir    string
	cmd    *exec.Cmd
	faults *fault.Process // nil without
	at     struct{ Functions, Control string }
	client *client.Client
	wait   func() error // once; how the process ended
}

// start runs a daemon on dir until the test ends. With an error it may give the node that ended before it served. With a
// rule, that is asked about each change of a file below dir.
func start(t *testing.T, dir string, rule fault.Rule, flags ...string) (*node, error) {
	t.Helper()
	n := &node{t: t, dir: dir}
	args := append([]string{"up", "--data", dir, "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"}, flags...)
	n.cmd = exec.CommandContext(t.Context(), filepath.Join(built, "lambent"), args...)
	n.cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+t.TempDir(), "LAMBENT_INITBIN="+built)
	var log bytes.Buffer
	if n.cmd.Stderr = &log; testing.Verbose() {
		n.cmd.Stderr = io.MultiWriter(&log, t.Output())
	}
	out, err := n.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if rule == nil {
		err = n.cmd.Start()
	} else {
		n.faults, err = fault.Start(t.Context(), n.cmd, dir, rule)
	}
	if err != nil {
		return nil, err
	}
	n.wait = sync.OnceValue(n.cmd.Wait)
	t.Cleanup(func() { n.kill() })
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "serving") {
			return n, n.attach()
		}
	}
	return n, fmt.Errorf("the daemon did not serve: %w: %s", n.wait(), log.String())
}

func (n *node) attach() error {
	raw, err := os.ReadFile(filepath.Join(n.dir, "endpoints.json"))
	if err == nil {
		err = json.Unmarshal(raw, &n.at)
	}
	if err != nil {
		return err
	}
	key, err := os.ReadFile(filepath.Join(n.dir, "admin.key"))
	if err != nil {
		return err
	}
	n.client, err = client.New(n.at.Control, strings.TrimSpace(string(key)))
	return err
}

func (n *node) kill() {
	_ = n.cmd.Process.Kill() // it may have ended
	_ = n.wait()
}

// stop ends the daemon as systemd would.
func (n *node) stop() error {
	if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return n.wait()
}

// upload gives the digest of a bundle with one file.
func (n *node) upload(ctx context.Context, name, content string) (string, error) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg})
	if err == nil {
		_, err = io.WriteString(w, content)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return "", err
	}
	bundle, err := n.client.Upload(ctx, bytes.NewReader(archive.Bytes()), nil)
	return bundle.Digest, err
}

// python deploys a handler.
func (n *node) python(ctx context.Context, name, main string, change func(*lambent.Settings)) error {
	digest, err := n.upload(ctx, "main.py", main)
	if err != nil {
		return err
	}
	s := lambent.Settings{Runtime: "python"}
	if change != nil {
		change(&s)
	}
	_, err = n.client.Deploy(ctx, client.Deploy{Namespace: "default", Name: name, Settings: s, Code: digest})
	return err
}

// call gives the status and the body of a GET.
func (n *node) call(ctx context.Context, path string) (status int, body string, err error) {
	req, err := http.NewRequestWithContext(ctx, "GET", n.at.Functions+path, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(raw), err
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %s within 30 s", what)
		}
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
