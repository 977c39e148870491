package python

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const interpreter = "/usr/bin/python3"

// install puts the shim into a fresh folder and gives the argv that runs it from there.
func install(t testing.TB) (dir string, argv []string) {
	t.Helper()
	dir = t.TempDir()
	if err := Install(dir, interpreter); err != nil {
		t.Fatal(err)
	}
	argv = Command(interpreter)
	last := len(argv) - 1
	argv[last] = strings.Replace(argv[last], Dir, dir, 1)
	return dir, argv
}

// TestShim runs the tests that are written in Python, against the installed shim.
func TestShim(t *testing.T) {
	tests, _ := filepath.Glob("tests/*.py")
	for _, path := range tests { // so that the go command does not keep the result when one of them changes
		if _, err := os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "tests")
}

// run runs the Python tests in a folder.
func run(t *testing.T, folder string, env ...string) {
	t.Helper()
	_, argv := install(t)
	command, err := json.Marshal(argv)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), interpreter, "-B", "-m", "unittest", "discover", "-s", folder)
	cmd.Env = append(append(os.Environ(), "SHIM_COMMAND="+string(command)), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestInstall(t *testing.T) {
	dir, _ := install(t)
	if err := Install(dir, interpreter); err != nil {
		t.Fatalf("a second time: %v", err)
	}
	sources, _ := filepath.Glob(filepath.Join(dir, "*", "*.py"))
	compiled, _ := filepath.Glob(filepath.Join(dir, "*", "__pycache__", "*.pyc"))
	if len(sources) == 0 || len(compiled) != len(sources) {
		t.Fatalf("%d sources, %d compiled", len(sources), len(compiled))
	}
	for _, path := range slices.Concat(sources, compiled) {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o644 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
	}
	for _, path := range compiled {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if flags := raw[4:8]; !bytes.Equal(flags, []byte{1, 0, 0, 0}) { // PEP 552: hash-based, not checked
			t.Errorf("%s has flags %v", path, flags)
		}
	}
}

func TestInstallFails(t *testing.T) {
	if err := Install(t.TempDir(), "/nonexistent/python3"); err == nil {
		t.Error("installed for an interpreter that is not there")
	}
}

// BenchmarkBoot reports the median from exec to readiness of a trivial handler, with and without json, beside a bare
// interpreter of the same run. Use -benchtime=50x.
func BenchmarkBoot(b *testing.B) {
	_, argv := install(b)
	task := func(code string) string {
		dir := b.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "main.py"), []byte(code), 0o644); err != nil {
			b.Fatal(err)
		}
		return dir
	}
	plain := task("def handler(event, context):\n    return 1\n")
	withJSON := task("import json\ndef handler(event, context):\n    return 1\n")
	var bare, boot, bootJSON []time.Duration
	for b.Loop() {
		start := time.Now()
		if err := exec.Command(interpreter, "-S", "-c", "pass").Run(); err != nil {
			b.Fatal(err)
		}
		bare = append(bare, time.Since(start))
		boot = append(boot, untilReady(b, argv, plain))
		bootJSON = append(bootJSON, untilReady(b, argv, withJSON))
	}
	report := func(times []time.Duration, unit string) {
		slices.Sort(times)
		b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, unit)
	}
	report(bare, "bare-p50-ms")
	report(boot, "ready-p50-ms")
	report(bootJSON, "ready-json-p50-ms")
}

func untilReady(b *testing.B, argv []string, task string) time.Duration {
	b.Helper()
	path := filepath.Join(task, "s")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		b.Fatal(err)
	}
	defer listener.Close()
	file, err := listener.File()
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprint(conn, "OPTIONS * HTTP/1.1\r\nHost: shim\r\n\r\n"); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = task
	cmd.ExtraFiles = []*os.File{file}
	cmd.Env = []string{"LAMBENT_HANDLER=main.handler", "LAMBENT_CONCURRENCY=1"}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	answer := make([]byte, 512)
	n, err := conn.Read(answer)
	took := time.Since(start)
	if err != nil || !bytes.HasPrefix(answer[:n], []byte("HTTP/1.1 204 ")) {
		b.Fatalf("%q, %v", answer[:n], err)
	}
	return took
}
