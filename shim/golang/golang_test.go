package golang

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestMain lets the test binary be the function: with SERVE set it serves on the listener and names its network.
func TestMain(m *testing.M) {
	if os.Getenv("SERVE") == "" {
		os.Exit(m.Run())
	}
	listener, err := Listener()
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(listener.Addr())
	network := listener.Addr().Network()
	_ = http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, network) }))
}

func TestPassedSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	file, err := listener.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	serve(t, file, "LISTEN_FDS=1")
	dial := func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", path) }
	client := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	if got := get(t, client, "http://function/"); got != "unix" {
		t.Errorf("served on %q", got)
	}
	request, _ := http.NewRequestWithContext(t.Context(), http.MethodOptions, "http://function", nil)
	request.URL.Opaque = "*" // the host's readiness request
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("OPTIONS * got %s", response.Status)
	}
}

func TestWithoutLambent(t *testing.T) {
	for _, env := range [][]string{
		{},
		{"LISTEN_FDS=0"},
		{"LISTEN_FDS=1", "LISTEN_PID=1"}, // meant for another process
	} {
		address := serve(t, nil, append(env, "PORT=0")...)
		if got := get(t, http.DefaultClient, "http://"+address); got != "tcp" {
			t.Errorf("%v: served on %q", env, got)
		}
	}
}

func TestNoSocketPassed(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = []string{"SERVE=1", "LISTEN_FDS=1"}
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Errorf("went on without a socket: %s", out)
	}
}

// TestExample keeps the example's copy equal.
func TestExample(t *testing.T) {
	copied, err := os.ReadFile("../../examples/wordcount/listen.go")
	if err != nil {
		t.Fatal(err)
	}
	if string(copied) != Source("main") {
		t.Error("examples/wordcount/listen.go is not shim/golang/listen.go in package main")
	}
}

// serve starts the test binary as a function, with file as descriptor 3, and gives its address.
func serve(t *testing.T, file *os.File, env ...string) string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(env, "SERVE=1")
	if file != nil {
		cmd.ExtraFiles = []*os.File{file}
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line := make([]byte, 256)
	n, err := stdout.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(line[:n]))
}

func get(t *testing.T, client *http.Client, url string) string {
	t.Helper()
	response, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}
