package script

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// A directory is served by `lambent dev` as it is at each save, broken saves aside, and its log is on stdout.
func TestDev(t *testing.T) {
	bin := build(t)
	dir := filepath.Join(t.TempDir(), "greet")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	save := func(code string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "main.py"), []byte(code), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	handler := func(answer string) string {
		return "def handler(event, context):\n    print('called for " + answer + "')\n    return {'statusCode': 200, 'body': '" + answer + "'}\n"
	}
	save(handler("one"))

	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	temp := t.TempDir()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "lambent"), "dev", dir, "--listen", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), "TMPDIR="+temp, "XDG_CONFIG_HOME="+t.TempDir())
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = patience
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	told := bufio.NewScanner(stderr)
	await := func(part string) string {
		t.Helper()
		var seen []string
		for told.Scan() {
			if strings.Contains(told.Text(), part) {
				return told.Text()
			}
			seen = append(seen, told.Text())
		}
		t.Fatalf("it did not say %q but:\n%s", part, strings.Join(seen, "\n"))
		return ""
	}
	var log strings.Builder
	var reading sync.WaitGroup
	last := make(chan struct{})
	reading.Go(func() {
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			log.WriteString(lines.Text() + "\n")
			if strings.Contains(lines.Text(), "called for three") {
				close(last)
			}
		}
	})

	url := regexp.MustCompile(`http://\S+`).FindString(await("is ready in"))
	want := func(body string) {
		t.Helper()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if got, err := io.ReadAll(resp.Body); string(got) != body || err != nil {
			t.Errorf("it answers %q, %v; want %q", got, err, body)
		}
	}
	want("one")
	save(handler("two"))
	await("is ready in")
	want("two")
	save("def handler(")
	await("start_failed")
	want("two")
	save(handler("three"))
	await("is ready in")
	want("three")
	select {
	case <-last:
	case <-ctx.Done():
	}

	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	for told.Scan() { // to its end
	}
	reading.Wait()
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	for _, line := range []string{"called for one", "called for two", "called for three", "SyntaxError"} {
		if !strings.Contains(log.String(), line) {
			t.Errorf("its log has no %q:\n%s", line, log.String())
		}
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("it left %v behind, %v", left, err)
	}
}
