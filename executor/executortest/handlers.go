package executortest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lambent"
)

func testPython(t *testing.T, k *kit) { testHandlers(t, k, "python3.", "python", "ValueError") }

func testNode(t *testing.T, k *kit) { testHandlers(t, k, "nodejs", "node", "RangeError") }

// testHandlers runs the handlers of testdata/folder, which do the same in every language, on the latest runtime
// whose name begins with prefix; raised is what they raise.
func testHandlers(t *testing.T, k *kit, prefix, folder, raised string) {
	runtimes := slices.DeleteFunc(k.exec.Runtimes(), func(name string) bool { return !strings.HasPrefix(name, prefix) })
	if len(runtimes) == 0 {
		t.Fatalf("there is no runtime %s*", prefix)
	}
	files, err := fs.Sub(handlerCode, "testdata/"+folder)
	if err != nil {
		t.Fatal(err)
	}
	code := filepath.Join(t.TempDir(), "code")
	if err := os.CopyFS(code, files); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(code, 0o755); err != nil {
		t.Fatal(err)
	}
	handler := func(name string) func(*lambent.Settings) {
		return func(s *lambent.Settings) { s.Runtime, s.Handler = runtimes[len(runtimes)-1], name }
	}
	r := k.startCode(t, code, handler("main.handler"))
	if p := r.StartPhases(); p[lambent.PhaseSandbox] <= 0 || p[lambent.PhaseBoot] <= 0 || p[lambent.PhaseLoad] <= 0 {
		t.Errorf("the start's phases are %v", p)
	}
	status, body, err := r.do(request(t, "POST", "/echo", "hello"))
	if status != 202 || body != "hello" || err != nil {
		t.Errorf("echo: %d %q, %v", status, body, err)
	}
	var env map[string]string
	if r.into(t, "/env", &env); env["LAMBENT_INSTANCE"] != r.ID() || env["TMPDIR"] != "/tmp" {
		t.Errorf("the environment is %v", env)
	}
	var own map[string]string
	if r.into(t, "/status", &own); own["CapEff"] != "0000000000000000" || own["Seccomp"] != "2" || own["SigBlk"] != "0000000000000000" {
		t.Errorf("/proc/self/status is %v", own)
	}
	for i := range 10 {
		before := len(r.logs.all())
		req := request(t, "GET", fmt.Sprintf("/log?%d", i), "")
		req.Header.Set("Id", lambent.NewID())
		if _, _, err := r.do(req); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, line := range r.logs.all()[before:] {
			if line.Invocation != req.Header.Get("Id") {
				t.Errorf("the line is attributed wrongly: %+v", line)
			}
			got = append(got, line.Text)
		}
		slices.Sort(got)
		if want := []string{fmt.Sprintf("err %d", i), fmt.Sprintf("out %d", i)}; !slices.Equal(got, want) {
			t.Errorf("the lines are %q, want %q", got, want)
		}
	}
	_, _, err = r.get(t, "/raise")
	want(t, err, lambent.CodeHandlerError, raised, "as asked")
	_, _, err = r.get(t, "/exit")
	want(t, err, lambent.CodeInstanceExited, "exited with code 3")

	for _, target := range []string{"/eat", "/grow"} {
		r = k.startCode(t, code, handler("main.handler"))
		_, _, err = r.get(t, target)
		if e := lambent.ErrorOf(err); e == nil || e.Code != lambent.CodeMemoryExceeded && !strings.Contains(e.Message, "MemoryError") {
			t.Errorf("GET %s gives %v", target, err)
		}
	}
	_, err = k.tryStart(t, k.exec, code, handler("broken.handler"))
	want(t, err, lambent.CodeStartFailed, "no luck today")
	_, err = k.tryStart(t, k.exec, code, handler("main.nothing"))
	want(t, err, lambent.CodeStartFailed, "nothing")
}
