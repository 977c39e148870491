package main

import (
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestStandardLibraryOnly keeps what is in every sandbox of runtime exec small.
func TestStandardLibraryOnly(t *testing.T) {
	list := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".")
	list.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(string(out)); got != "lambent/cmd/lambent-exec" {
		t.Errorf("it reaches %s", got)
	}
}

func TestBeginsWithField(t *testing.T) {
	for text, want := range map[string][2]bool{
		"": {false, false}, "S": {false, false}, "status": {false, false}, "Status:": {true, true}, "CONTENT-TYPE: x": {true, true},
		"Location:/": {true, true}, "Stand": {false, true}, "hello": {false, true}, "Set-Cookie: a": {false, true}, "\n": {false, true},
	} {
		if header, sure := beginsWithField([]byte(text)); header != want[0] || sure != want[1] {
			t.Errorf("%q: header %v, sure %v", text, header, sure)
		}
	}
}

func TestCutHead(t *testing.T) {
	for text, want := range map[string][3]string{
		"A: b\n\nbody":       {"A: b\n", "body", "ok"},
		"A: b\r\n\r\n\nbody": {"A: b\r\n", "\nbody", "ok"},
		"A: b\r\n\nbody":     {"A: b\r\n", "body", "ok"},
		"A: b\nC: d\n":       {},
		"A: b\n\r":           {},
		"":                   {},
	} {
		head, body, ok := cutHead([]byte(text))
		if ok != (want[2] == "ok") || string(head) != want[0] || string(body) != want[1] {
			t.Errorf("%q: %q, %q, %v", text, head, body, ok)
		}
	}
}

func TestPasses(t *testing.T) {
	for name, want := range map[string]bool{
		"Accept": true, "Authorization": true, "X-Forwarded-For": true, "X_forwarded_for": false, "Proxy": false,
		"Lambent-Invocation": false, "Content-Length": false,
	} {
		if got := passes(http.CanonicalHeaderKey(name)); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
