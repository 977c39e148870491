package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"lambent"
	"lambent/control"
	"lambent/control/controltest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"lambent": func() {
			root := New()
			root.Version = "v0"
			os.Exit(Run(context.Background(), root))
		},
		"write-context": func() {
			path, err := WriteContext(os.Args[1], os.Args[2], "")
			if err != nil {
				log.Fatal(err)
			}
			fmt.Println(path)
		},
	})
}

// TestScripts runs testdata/script against a served control API whose functions do what their names say:
// echo, missing (404), crash (500), raise (an error of the handler), slow (a timeout), cut (breaks off); one
// named broken does not get ready.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			w := controltest.New(t)
			w.Ready, w.Invoke, w.Lines, w.Events, w.Records = ready, invoke, lines, events, records
			w.Build = func(ctx context.Context, _ string, b lambent.Build, log func(string)) (*lambent.Built, error) {
				return build(ctx, w.Code, b, log)
			}
			public := &http.Server{Handler: http.HandlerFunc(gateway)}
			listener, err := listen()
			if err != nil {
				return err
			}
			go func() { _ = public.Serve(listener) }()
			env.Defer(func() { public.Close() })
			w.Endpoint = "http://" + listener.Addr().String()
			env.Setenv("FUNCTIONS", w.Endpoint)
			env.Setenv("LAMBENT_URL", w.URL)
			env.Setenv("LAMBENT_KEY", controltest.Key)
			env.Setenv("XDG_CONFIG_HOME", filepath.Join(env.WorkDir, "config"))
			env.Setenv("TZ", "UTC")
			return os.WriteFile(filepath.Join(env.WorkDir, "key"), []byte(controltest.Key+"\n"), 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// code asserts the exit code of the command that follows: code 3 lambent get x
			"code": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) < 2 {
					ts.Fatalf("usage: code N COMMAND...")
				}
				got := "0"
				if err := ts.Exec(args[1], args[2:]...); err != nil {
					var exit *exec.ExitError
					if !errors.As(err, &exit) {
						ts.Fatalf("%v", err)
					}
					got = strings.TrimPrefix(exit.String(), "exit status ")
				}
				if got != args[0] {
					ts.Fatalf("exit code %s, want %s", got, args[0])
				}
			},
		},
	})
}

// build fails where the source has a file "fails", and installs a package where it has a package-lock.json.
func build(ctx context.Context, code control.Code, b lambent.Build, log func(string)) (*lambent.Built, error) {
	source, err := code.Open(b.Source)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(source)
	switch {
	case err != nil:
		return nil, err
	case bytes.Contains(raw, []byte("fails\x00")):
		log("npm error ERESOLVE")
		e := lambent.Errorf(lambent.CodeBuildFailed, "the build tool exited with code 1")
		e.Trace = "npm error ERESOLVE"
		return nil, e
	case bytes.Contains(raw, []byte("package-lock.json")):
		log("added 1 package")
		digest, _, err := code.Put(ctx, strings.NewReader("built of "+b.Source))
		return &lambent.Built{Code: digest}, err
	}
	return &lambent.Built{Code: b.Source, Cached: true}, nil
}

func ready(_ context.Context, r *lambent.Revision) (lambent.Phases, error) {
	if r.Function == "broken" {
		e := lambent.Errorf(lambent.CodeStartFailed, "load: the process exited with code 1 before it was ready")
		e.Trace = "Traceback (most recent call last):\nModuleNotFoundError: No module named 'x'"
		return lambent.Phases{}, e
	}
	return lambent.Phases{lambent.PhaseSandbox: 5 * time.Millisecond, lambent.PhaseBoot: 36200 * time.Microsecond}, nil
}

func invoke(_ context.Context, inv *lambent.Invocation) (*lambent.Response, error) {
	answer := func(status int, contentType string, body io.Reader) (*lambent.Response, error) {
		return &lambent.Response{Status: status, ContentLength: -1, Header: http.Header{"Content-Type": {contentType}}, Body: io.NopCloser(body)}, nil
	}
	switch inv.Revision.Function {
	case "echo":
		if inv.Body == nil {
			return answer(200, "text/plain", strings.NewReader("nothing"))
		}
		raw, err := io.ReadAll(inv.Body)
		if err != nil {
			return nil, err
		}
		return answer(200, inv.Header.Get("Content-Type"), strings.NewReader(string(raw)))
	case "missing":
		return answer(404, "text/plain", strings.NewReader("no such thing\n"))
	case "crash":
		return answer(500, "application/json", strings.NewReader(`{"oops": 1}`))
	case "cut":
		return answer(200, "text/plain", io.MultiReader(strings.NewReader("half"), cut{}))
	case "slow":
		return nil, lambent.Errorf(lambent.CodeTotalTimeout, "it took longer than 30s")
	}
	e := lambent.Errorf(lambent.CodeHandlerError, "ValueError: no")
	e.Invocation, e.Trace = "0199-raise", "Traceback (most recent call last):\n  File \"main.py\", line 2\nValueError: no"
	return nil, e
}

type cut struct{}

func (cut) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func listen() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }

func gateway(w http.ResponseWriter, r *http.Request) {
	_, _ = io.WriteString(w, r.Method+" "+r.URL.String()+" "+r.Header.Get("Authorization")+"\n")
}

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

var records = []lambent.Record{{
	ID: "0199-raise", Namespace: "default", Function: "raise", Revision: "0123456789abcdef", Trigger: "http", Accepted: noon,
	Method: "POST", Path: "/x", Status: 502, Instance: "i1", Cold: true, BytesIn: 7,
	Error:  lambent.Errorf(lambent.CodeHandlerError, "ValueError: no").WithHint("look at line 2"),
	Phases: lambent.Phases{lambent.PhaseQueue: 5e4, lambent.PhaseSandbox: 10e6, lambent.PhaseBoot: 20e6, lambent.PhaseHandler: 10e6},
}}

func lines(_ context.Context, q control.LogQuery) iter.Seq2[lambent.LogLine, error] {
	return func(yield func(lambent.LogLine, error) bool) {
		all := []lambent.LogLine{
			{Time: noon, Instance: "i1", Stream: "lambent", Text: "ready"},
			{Time: noon.Add(time.Second), Instance: "i1", Invocation: "0199-raise", Stream: "stdout", Text: "before it failed"},
		}
		if q.Tail >= 0 {
			all = all[max(0, len(all)-q.Tail):]
		}
		for _, l := range all {
			if q.Invocation != "" && l.Invocation != q.Invocation {
				continue
			}
			if !yield(l, nil) {
				return
			}
		}
	}
}

func events(_ context.Context, q control.EventQuery) iter.Seq2[lambent.SystemEvent, error] {
	return func(yield func(lambent.SystemEvent, error) bool) {
		for _, e := range []lambent.SystemEvent{
			{ID: "1", Time: noon, Kind: lambent.EventNodeStarted, Reason: lambent.ReasonCrash, Text: "Lambent v0 serves after a crash"},
			{ID: "2", Time: noon.Add(time.Second), Kind: lambent.EventInstanceStarted, Namespace: "default", Function: "f", Revision: "0123456789abcdef",
				Instance: "i1", Phases: lambent.Phases{lambent.PhaseBoot: 20e6}},
			{ID: "3", Time: noon.Add(2 * time.Second), Kind: lambent.EventInstanceExited, Namespace: "team", Function: "f", Revision: "0123456789abcdef",
				Instance: "i2", Exit: &lambent.Exit{Signal: "SIGKILL", OOM: true}},
			{ID: "4", Time: noon.Add(3 * time.Second), Kind: lambent.EventInstanceStopped, Namespace: "default", Function: "f", Revision: "0123456789abcdef",
				Instance: "i1", Reason: lambent.ReasonIdle},
		} {
			if (q.Namespace == "" || q.Namespace == e.Namespace) && (q.Kind == "" || q.Kind == e.Kind) && !yield(e, nil) {
				return
			}
		}
	}
}

// The command line is for other machines too: it is a client and nothing more.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	allowed := []string{"lambent", "lambent/cli", "lambent/client", "lambent/internal/bundle", "lambent/internal/changes", "lambent/internal/durable", "lambent/internal/nearest", "lambent/shim/golang", "lambent/shim/wasm",
		"github.com/spf13/cobra", "github.com/spf13/pflag", "github.com/goccy/go-yaml", "github.com/fsnotify/fsnotify", "golang.org/x/sys/unix"}
	for path := range strings.FieldsSeq(string(out)) {
		if !slices.ContainsFunc(allowed, func(a string) bool {
			return path == a || !strings.HasPrefix(a, "lambent") && strings.HasPrefix(path, a+"/")
		}) {
			t.Errorf("cli depends on %s", path)
		}
	}
}

func TestTimeline(t *testing.T) {
	rows := timeline(lambent.Phases{lambent.PhaseQueue: 1, lambent.PhaseBoot: 3 * time.Millisecond, lambent.PhaseHandler: time.Millisecond})
	want := [][]string{
		{"PHASE", "TIME", "SHARE"},
		{"queue", "0s", "▏"},
		{"boot", "3ms", strings.Repeat("█", 30)},
		{"handler", "1ms", strings.Repeat(" ", 30) + strings.Repeat("█", 10)},
		{"total", "4ms", strings.Repeat("─", 40)},
	}
	for i, row := range rows {
		if !slices.Equal(row, want[i]) {
			t.Errorf("row %d is %q, want %q", i, row, want[i])
		}
	}
	if rows := timeline(lambent.Phases{}); len(rows) != 2 {
		t.Errorf("an invocation without phases: %q", rows)
	}
}

func TestPrintable(t *testing.T) {
	if got := printable("\x1b]52;c;cm0=\a\x1b[2Jadded\t1 Päckchen\r\x7f\u009b31m"); got != "]52;c;cm0=[2Jadded\t1 Päckchen31m" {
		t.Errorf("got %q", got)
	}
}

func TestProgress(t *testing.T) {
	var out strings.Builder
	newProgress(&out, "uploading").show(50, 100)
	if out.Len() > 0 {
		t.Errorf("a bar where there is no terminal: %q", out.String())
	}
	p := &progress{w: &out, what: "uploading", percent: -1}
	p.show(500_000, 1_000_000)
	p.show(500_001, 1_000_000) // the same percent is not drawn again
	p.clear()
	if want := "\ruploading " + strings.Repeat("█", 15) + strings.Repeat("░", 15) + "  50% of 1.0 MB\r\033[K"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}
