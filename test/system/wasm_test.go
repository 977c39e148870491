package system

import (
	"encoding/binary"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lambent"
	"lambent/daemon"
)

func TestMain(m *testing.M) {
	daemon.Main()
	os.Exit(m.Run())
}

// module is a command in WebAssembly that answers with text: it calls fd_write and returns.
func module(text string) string {
	answer := "Content-Type: text/plain\n\n" + text
	memory := binary.LittleEndian.AppendUint32(nil, 16) // an iovec at 0: the text at 16, and its length
	memory = binary.LittleEndian.AppendUint32(memory, uint32(len(answer)))
	memory = append(append(memory, make([]byte, 8)...), answer...)
	section := func(id byte, content ...byte) string {
		return string(id) + string(binary.AppendUvarint(nil, uint64(len(content)))) + string(content)
	}
	vector := func(b string) []byte { return append(binary.AppendUvarint(nil, uint64(len(b))), b...) }
	imported := append(append([]byte{1}, vector("wasi_snapshot_preview1")...), append(vector("fd_write"), 0, 0)...)
	exports := append(append([]byte{2}, append(vector("memory"), 2, 0)...), append(vector("_start"), 0, 1)...)
	return "\x00asm\x01\x00\x00\x00" +
		section(1, 2, 0x60, 4, 0x7f, 0x7f, 0x7f, 0x7f, 1, 0x7f, 0x60, 0, 0) +
		section(2, imported...) +
		section(3, 1, 1) +
		section(5, 1, 0, 1) +
		section(7, exports...) +
		section(10, 1, 13, 0, 0x41, 1, 0x41, 0, 0x41, 1, 0x41, 8, 0x10, 0, 0x1a, 0x0b) +
		section(11, append([]byte{1, 0, 0x41, 0, 0x0b}, vector(string(memory))...)...)
}

func (n *node) wasm(name, text string) {
	n.t.Helper()
	n.deploy(name, files{"main.wasm": module(text)}, lambent.Settings{Runtime: "wasm", KeepAlive: lambent.Duration(time.Hour)})
}

func TestWasm(t *testing.T) {
	n := start(t, t.TempDir())
	n.wasm("w", "hello")
	if a := n.call("GET", "/fn/w", nil); a.status != http.StatusOK || a.body != "hello" || a.header.Get("Content-Type") != "text/plain" {
		t.Errorf("%+v", a)
	}
	for _, c := range []struct {
		name  string
		files files
		code  lambent.Code
		say   string
	}{
		{"nothing", files{"other.wasm": module("")}, lambent.CodeBundleInvalid, `no module "main.wasm"`},
		{"garbage", files{"main.wasm": "no module"}, lambent.CodeBundleInvalid, "not valid WebAssembly"},
		{"half", files{"main.wasm": module("x")[:40]}, lambent.CodeBundleInvalid, "not valid WebAssembly"},
		{"component", files{"main.wasm": "\x00asm\x0d\x00\x01\x00"}, lambent.CodeModuleUnsupported, "component"},
		{"strange import", files{"main.wasm": strings.Replace(module("x"), "fd_write", "fd_wrong", 1)}, lambent.CodeModuleUnsupported, "fd_wrong"},
	} {
		for range 6 {
			_, err := n.tryDeploy("bad", c.files, lambent.Settings{Runtime: "wasm"})
			if e := lambent.ErrorOf(err); e == nil || e.Code != c.code || e.Fault != lambent.FaultClient || !strings.Contains(e.Message, c.say) || e.Hint == "" {
				t.Errorf("%s: %+v", c.name, e)
			}
		}
	}
	if opened := n.systemEvents(lambent.EventCircuitOpened); len(opened) > 0 {
		t.Errorf("%+v", opened)
	}
	var found *lambent.Finding
	about, err := n.client.System(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range about.Findings {
		if f.Name == "wasm" {
			found = &f
		}
	}
	if found == nil || !found.OK {
		t.Errorf("doctor says %+v", found)
	}
}

// workersOn gives the pids of the workers of daemons that run on dir.
func workersOn(t *testing.T, dir string) (pids []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range all {
		raw, _ := os.ReadFile(file) // it may have ended
		if !strings.HasPrefix(string(raw), "lambent-wasm-worker\x00") {
			continue
		}
		mounts, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "mountinfo"))
		if strings.Contains(string(mounts), dir+"/wasm") {
			pids = append(pids, filepath.Base(filepath.Dir(file)))
		}
	}
	return pids
}

// TestWasmAfterCrash kills the daemon: its workers end, and the next finds the artefacts.
func TestWasmAfterCrash(t *testing.T) {
	bin, dir := binaries(t), t.TempDir()
	p := launch(t, bin, dir)
	n := attach(t, dir)
	n.wasm("w", "hello")
	if a := n.call("GET", "/fn/w", nil); a.body != "hello" {
		t.Fatalf("%+v", a)
	}
	if pids := workersOn(t, dir); len(pids) == 0 {
		t.Fatal("there are no workers")
	}
	p.kill()
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		pids := workersOn(t, dir)
		if len(pids) == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the workers %v live on", pids)
		}
	}
	launch(t, bin, dir)
	n = attach(t, dir)
	for end := time.Now().Add(time.Minute); len(workersOn(t, dir)) == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("there is no spare worker")
		}
	}
	began := time.Now()
	if a := n.call("GET", "/fn/w", nil); a.body != "hello" {
		t.Errorf("%+v", a)
	}
	t.Logf("the first call took %v", time.Since(began))
	made, err := filepath.Glob(filepath.Join(dir, "wasm", "default", "*"))
	if len(made) != 1 || err != nil {
		t.Errorf("the artefacts are %v, %v", made, err)
	}
}
