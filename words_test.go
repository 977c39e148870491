package lambent

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestRootIsStdlibOnly(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", "lambent").Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Fields(string(out)); !slices.Equal(got, []string{"lambent"}) {
		t.Errorf("package lambent reaches %v, want the standard library only", got)
	}
}

func TestHouseRules(t *testing.T) {
	// A room on the left reaches, of ours, nothing below a folder on the right.
	for room, forbidden := range map[string][]string{
		"lambent/gateway":          {"lambent/executor", "lambent/store", "lambent/dispatch", "lambent/control"},
		"lambent/dispatch":         {"lambent/executor/process", "lambent/store", "lambent/gateway", "lambent/control"},
		"lambent/control":          {"lambent/executor", "lambent/store/jetstream", "lambent/store/memory", "lambent/dispatch", "lambent/gateway"},
		"lambent/client":           {"lambent/control", "lambent/store", "lambent/internal"},
		"lambent/executor":         {"lambent/executor/process", "lambent/dispatch"},
		"lambent/executor/process": {"lambent/dispatch", "lambent/store", "lambent/gateway"},
		"lambent/executor/wasm":    {"lambent/executor/process", "lambent/dispatch", "lambent/store", "lambent/gateway"},
	} {
		out, err := exec.Command("go", "list", "-deps", room).Output()
		if err != nil {
			t.Fatalf("%s: %v", room, err)
		}
		for _, dep := range strings.Fields(string(out)) {
			for _, f := range forbidden {
				if dep == f || strings.HasPrefix(dep, f+"/") {
					t.Errorf("%s reaches %s", room, dep)
				}
			}
		}
	}
}

func TestErrorsFileIsGenerated(t *testing.T) {
	raw, err := os.ReadFile("errors.json")
	if err != nil {
		t.Fatal(err)
	}
	var listed []struct {
		Code   Code
		Fault  Fault
		Status int
	}
	if err := json.Unmarshal(raw, &listed); err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	left := maps.Clone(codes)
	for _, l := range listed {
		if info := codes[l.Code]; info.fault != l.Fault || info.status != l.Status {
			t.Errorf("%s is %v in Go and %v in errors.json: run go generate .", l.Code, info, l)
		}
		if !strings.Contains(string(doc), "| `"+string(l.Code)+"` |") {
			t.Errorf("docs/errors.md lacks %s: run go generate .", l.Code)
		}
		delete(left, l.Code)
	}
	if len(left) > 0 {
		t.Errorf("not in errors.json: %v", left)
	}
}

func TestErrorOf(t *testing.T) {
	own := Errorf(CodeQueueFull, "full: %w", os.ErrExist)
	if e := ErrorOf(fmt.Errorf("wrapped: %w", own)); e != own || e.Fault != FaultLimit || e.Status() != 429 || !errors.Is(e, os.ErrExist) {
		t.Errorf("got %+v", e)
	}
	if e := ErrorOf(errors.New("x")); e.Code != CodeInternal || e.Fault != FaultPlatform || e.Status() != 500 {
		t.Errorf("got %+v", e)
	}
	if ErrorOf(nil) != nil {
		t.Error("an error of nil")
	}
}

func TestSettingsComplete(t *testing.T) {
	for _, runtime := range []string{"python3.11", "nodejs20", "go"} {
		s, err := Settings{Runtime: runtime}.Complete()
		if err != nil {
			t.Fatalf("%s: %v", runtime, err)
		}
		again, err := s.Complete()
		if err != nil || fmt.Sprint(again) != fmt.Sprint(s) {
			t.Errorf("%s: completing twice gives %+v, then %+v (%v)", runtime, s, again, err)
		}
	}
	for _, c := range []struct {
		change func(*Settings)
		want   string // a part of the message
	}{
		{func(s *Settings) { s.Runtime = "cobol" }, `runtime: "cobol" is unknown`},
		{func(s *Settings) { s.Memory = 1 }, "memory: 1 is not between 16 and 10240"},
		{func(s *Settings) { s.CPU = -1 }, "cpu: -1"},
		{func(s *Settings) { s.Pids = 1 << 20 }, "pids:"},
		{func(s *Settings) { s.Timeouts.Total = Duration(25 * time.Hour) }, "timeouts.total: 25h0m0s is not between 1ms and 24h"},
		{func(s *Settings) { s.KeepAlive = -1 }, "keep_alive:"},
		{func(s *Settings) { s.Handler = "../x" }, "handler:"},
		{func(s *Settings) { s.Tier = "unsafe" }, "tier:"},
		{func(s *Settings) { s.Reuse = "maybe" }, "reuse:"},
		{func(s *Settings) { s.Auth = "maybe" }, "auth:"},
		{func(s *Settings) { s.MaxBody = -2 }, "max_body:"},
		{func(s *Settings) { s.Env = map[string]string{"A B": "x"} }, `env: "A B"`},
		{func(s *Settings) { s.Env = map[string]string{"LAMBENT_X": "x"} }, "env: LAMBENT_X is set by the platform"},
		{func(s *Settings) { s.Env = map[string]string{"A": "x\x00"} }, "NUL"},
		{func(s *Settings) { s.Env = map[string]string{"A": strings.Repeat("x", 5000)} }, "over the limit of 4096"},
	} {
		s := Settings{Runtime: "python3.11"}
		c.change(&s)
		if _, err := s.Complete(); err == nil || !strings.Contains(err.Error(), c.want) || !HasCode(err, CodeInvalidRequest) {
			t.Errorf("%+v: got %v, want %q", s, err, c.want)
		}
	}
}

func TestFetchHandlersStream(t *testing.T) {
	for _, c := range []struct {
		handler     string
		concurrency int
		maxBody     int64
		total       time.Duration
	}{
		{"", 1, 6 << 20, 30 * time.Second},
		{"src/web-app.handler", 1, 6 << 20, 30 * time.Second},
		{"src/web-app.default", 100, -1, 24 * time.Hour},
	} {
		s, err := Settings{Runtime: "nodejs20", Handler: c.handler}.Complete()
		if err != nil || s.Concurrency != c.concurrency || s.MaxBody != c.maxBody || s.Timeouts.Total.D() != c.total {
			t.Errorf("%q: %+v, %v", c.handler, s, err)
		}
	}
	if _, err := (Settings{Runtime: "nodejs20", Handler: "index.default", Concurrency: 7}).Complete(); err != nil {
		t.Error(err)
	}
	_, err := Settings{Runtime: "nodejs20", Concurrency: 7}.Complete()
	if err == nil || !strings.Contains(err.Error(), "its name ends in .default") {
		t.Error(err)
	}
	for _, handler := range []string{"index", "../index.handler", "/index.handler", "a b.c", "index.", "a.b.c"} {
		if _, err := (Settings{Runtime: "nodejs20", Handler: handler}).Complete(); !HasCode(err, CodeInvalidRequest) {
			t.Errorf("%q: %v", handler, err)
		}
	}
}

func TestCheckName(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, "hello-2": true, strings.Repeat("a", 63): true,
		"": false, "2a": false, "-a": false, "a-": false, "A": false, "a.b": false, "a_b": false, "ä": false, "a\n": false, strings.Repeat("a", 64): false,
	} {
		if err := CheckName("function", name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestRevisionIsContentAddressed(t *testing.T) {
	s, err := Settings{Runtime: "go", Env: map[string]string{"B": "1", "A": "2"}}.Complete()
	if err != nil {
		t.Fatal(err)
	}
	a := NewRevision("ns", "f", s, "sha256:1", "root", time.Now())
	if b := NewRevision("ns", "f", s, "sha256:1", "root", time.Now().Add(time.Hour)); b.ID != a.ID {
		t.Errorf("the same input gives %s and %s", a.ID, b.ID)
	}
	more := s
	more.Memory++
	for _, b := range []*Revision{
		NewRevision("ns", "f", more, "sha256:1", "root", time.Now()),
		NewRevision("ns", "f", s, "sha256:2", "root", time.Now()),
		NewRevision("ns", "f", s, "sha256:1", "other root", time.Now()),
	} {
		if b.ID == a.ID {
			t.Errorf("%+v has the id of %+v", b, a)
		}
	}
}

func TestPhasesJSON(t *testing.T) {
	var p Phases
	p[PhaseQueue], p[PhaseRespond] = 1500*time.Microsecond, 2*time.Second
	raw, err := json.Marshal(p)
	if err != nil || string(raw) != `{"queue":1.500,"respond":2000.000}` {
		t.Fatalf("%s, %v", raw, err)
	}
	var back Phases
	if err := json.Unmarshal(raw, &back); err != nil || back != p {
		t.Errorf("%v, %v", back, err)
	}
}

func TestDurationText(t *testing.T) {
	var s Settings
	if err := json.Unmarshal([]byte(`{"keep_alive":"1h30m"}`), &s); err != nil || s.KeepAlive.D() != 90*time.Minute {
		t.Errorf("%v, %v", s.KeepAlive, err)
	}
	if err := json.Unmarshal([]byte(`{"keep_alive":30}`), &s); err == nil {
		t.Error("a number without a unit was taken")
	}
}

func TestNewID(t *testing.T) {
	at := time.UnixMilli(0x0123456789ab)
	a := newID(at)
	if len(a) != 36 || !strings.HasPrefix(a, "01234567-89ab-7") || !strings.ContainsRune("89ab", rune(a[19])) {
		t.Errorf("%s is no UUIDv7 of its time", a)
	}
	if b := newID(at.Add(time.Millisecond)); b <= a || newID(at) == a {
		t.Errorf("%s, then %s", a, b)
	}
}

func TestExitString(t *testing.T) {
	for want, e := range map[string]Exit{
		"exited with code 3": {Code: 3}, "killed by SIGSEGV": {Signal: "SIGSEGV"},
		"killed for exceeding its memory limit": {Signal: "SIGKILL", OOM: true}, "mount /usr: EPERM": {Err: "mount /usr: EPERM"},
	} {
		if got := e.String(); got != want {
			t.Errorf("%+v: %q", e, got)
		}
	}
}
