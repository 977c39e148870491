package node

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
	"syscall"
	"testing"
	"time"
)

const interpreter = "/usr/bin/node"

// install puts the shim into a fresh folder and gives the argv that runs it from there in 256 MiB.
func install(t testing.TB) (dir string, argv []string) {
	t.Helper()
	dir = t.TempDir()
	if err := Install(dir); err != nil {
		t.Fatal(err)
	}
	argv = Command(interpreter, 256)
	last := len(argv) - 1
	argv[last] = strings.Replace(argv[last], Dir, dir, 1)
	return dir, argv
}

// TestShim runs the tests that are written in JavaScript, against the installed shim.
func TestShim(t *testing.T) {
	paths, _ := filepath.Glob("tests/*.mjs")
	args := []string{"--test"}
	for _, path := range paths {
		if _, err := os.ReadFile(path); err != nil { // so that the go command does not keep the result when it changes
			t.Fatal(err)
		}
		if strings.HasSuffix(path, ".test.mjs") {
			args = append(args, path)
		}
	}
	_, argv := install(t)
	command, err := json.Marshal(argv)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), interpreter, args...)
	cmd.Env = append(os.Environ(), "SHIM_COMMAND="+string(command))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestInstall(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	dir, _ := install(t)
	if err := Install(dir); err != nil {
		t.Fatalf("a second time: %v", err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "lambent_shim", "*.cjs"))
	if len(files) == 0 {
		t.Fatal("nothing is installed")
	}
	for _, path := range append(files, filepath.Join(dir, "lambent_shim"), dir) {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if mode := info.Mode().Perm(); mode != 0o644 && mode != 0o755 {
			t.Errorf("%s has mode %v", path, mode)
		}
	}
	if err := Install(files[0]); err == nil {
		t.Error("installed into a file")
	}
}

func TestCommandFitsTheMemory(t *testing.T) {
	for memory, want := range map[int][]string{
		16:    {"--max-old-space-size=12", "--max-semi-space-size=1"},
		128:   {"--max-old-space-size=96", "--max-semi-space-size=4"},
		10240: {"--max-old-space-size=7680", "--max-semi-space-size=16"},
	} {
		if got := Command(interpreter, memory)[1:3]; !slices.Equal(got, want) {
			t.Errorf("%d MiB: %q", memory, got)
		}
	}
}

// BenchmarkBoot reports the median from exec to readiness of trivial handlers of each kind, beside a bare
// interpreter of the same run. Use -benchtime=30x.
func BenchmarkBoot(b *testing.B) {
	_, argv := install(b)
	task := func(name, code string) string {
		dir := b.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(code), 0o644); err != nil {
			b.Fatal(err)
		}
		return dir
	}
	kinds := []struct{ unit, handler, dir string }{
		{"commonjs-p50-ms", "index.handler", task("index.js", "exports.handler = async () => 1")},
		{"module-p50-ms", "index.handler", task("index.mjs", "export const handler = async () => 1")},
		{"fetch-p50-ms", "index.default", task("index.mjs", "export default { fetch: () => new Response() }")},
	}
	times := map[string][]time.Duration{}
	for b.Loop() {
		start := time.Now()
		if err := exec.Command(interpreter, "-e", "0").Run(); err != nil {
			b.Fatal(err)
		}
		times["bare-p50-ms"] = append(times["bare-p50-ms"], time.Since(start))
		for _, kind := range kinds {
			times[kind.unit] = append(times[kind.unit], untilReady(b, argv, kind.dir, kind.handler))
		}
	}
	for unit, all := range times {
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, unit)
	}
}

func untilReady(b *testing.B, argv []string, task, handler string) time.Duration {
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
	cmd.Env = []string{"LAMBENT_HANDLER=" + handler}
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
