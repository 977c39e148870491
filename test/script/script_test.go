// Package script runs the command line against a real daemon, both in the binary that ships. The scripts
// are the *.txtar files beside it; they need root, as the process tier does, and curl.
package script

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// patience bounds each start and stop of a daemon; a test that meets it fails.
const patience = 30 * time.Second

// build makes the binary and gives its folder.
func build(t *testing.T) string {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "make", "-s", "-C", "../..", "build").CombinedOutput(); err != nil {
		t.Fatalf("make build: %v\n%s", err, out)
	}
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

func TestScripts(t *testing.T) { run(t, ".") }

// run runs the scripts of a folder, each with a lambent of its own.
func run(t *testing.T, dir string) {
	bin := build(t)
	examples, err := filepath.Abs("../../examples")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: dir,
		Setup: func(env *testscript.Env) error {
			env.Setenv("EXAMPLES", examples)
			env.Setenv("PATH", bin+string(os.PathListSeparator)+env.Getenv("PATH"))
			env.Setenv("XDG_CONFIG_HOME", filepath.Join(env.WorkDir, "config"))
			d := &daemon{}
			env.Values["daemon"] = d
			env.Defer(func() {
				if err := d.stop(); err != nil {
					env.T().Log("the daemon ended with ", err)
				}
			})
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"up": up, "down": down, "code": code, "field": field,
		},
	})
}

// daemon is the script's `lambent up`, when it runs.
type daemon struct {
	cmd  *exec.Cmd
	done chan error
}

func (d *daemon) stop() error {
	if d.cmd == nil {
		return nil
	}
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	defer func() { d.cmd = nil }()
	select {
	case err := <-d.done:
		return err
	case <-time.After(patience):
		return errors.Join(errors.New("it did not end"), d.cmd.Process.Kill(), <-d.done)
	}
}

var servingRE = regexp.MustCompile(`^serving functions at (\S+), control API at (\S+)$`)

// up starts `lambent up` on the folder data and sets FUNCTIONS and CONTROL to its URLs: up [FLAG...]
func up(ts *testscript.TestScript, neg bool, args []string) {
	d := ts.Value("daemon").(*daemon)
	if neg || d.cmd != nil {
		ts.Fatalf("usage: up [FLAG...], once until down")
	}
	path, err := exec.LookPath(filepath.Join(strings.SplitN(ts.Getenv("PATH"), string(os.PathListSeparator), 2)[0], "lambent"))
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.Command(path, append([]string{"up", "--data", ts.MkAbs("data"), "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"}, args...)...)
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+ts.Getenv("XDG_CONFIG_HOME"))
	log, err := os.OpenFile(ts.MkAbs("daemon.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	ts.Check(err)
	defer log.Close()
	cmd.Stderr = log
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	d.cmd, d.done = cmd, make(chan error, 1)
	serving := make(chan []string, 1)
	go func() {
		defer close(serving)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if m := servingRE.FindStringSubmatch(lines.Text()); m != nil {
				serving <- m
				break
			}
		}
		_, err := io.Copy(io.Discard, out)
		d.done <- errors.Join(err, cmd.Wait())
	}()
	select {
	case m, ok := <-serving:
		if !ok {
			ts.Fatalf("lambent up ended: %v\n%s", <-d.done, ts.ReadFile("daemon.log"))
		}
		ts.Setenv("FUNCTIONS", m[1])
		ts.Setenv("CONTROL", m[2])
	case <-ctx.Done():
		ts.Fatalf("lambent up does not serve\n%s", ts.ReadFile("daemon.log"))
	}
}

// down stops the daemon, which must end well.
func down(ts *testscript.TestScript, neg bool, _ []string) {
	if neg {
		ts.Fatalf("usage: down")
	}
	if err := ts.Value("daemon").(*daemon).stop(); err != nil {
		ts.Fatalf("the daemon ended with %v\n%s", err, ts.ReadFile("daemon.log"))
	}
}

// code asserts the exit code of the command that follows: code 3 lambent get x
func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N COMMAND...")
	}
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit code %d, want %s", got, args[0])
	}
}

// field sets a variable to a field of the JSON in a file, such as stdout: field ID stdout record.id
func field(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: field VARIABLE FILE PATH")
	}
	var v any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[1])), &v))
	for name := range strings.SplitSeq(args[2], ".") {
		switch at := v.(type) {
		case map[string]any:
			v = at[name]
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i >= len(at) {
				ts.Fatalf("%s has no element %s", args[1], name)
			}
			v = at[i]
		default:
			ts.Fatalf("%s has no %s", args[1], args[2])
		}
	}
	ts.Setenv(args[0], fmt.Sprint(v))
}
