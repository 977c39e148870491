package system

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lambent"
	"lambent/client"
)

// programs builds the named commands once more, into a folder of the test.
func programs(t *testing.T, paths ...string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	cmd := exec.Command("go", append([]string{"build", "-o", dir + "/"}, paths...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir
}

// up is a daemon in processes of its own, which replace each other.
type up struct {
	*node
	bin string   // its program
	env []string // of its processes
	mu  sync.Mutex
	log bytes.Buffer // stderr of all of them
}

// Write takes the processes' stderr.
func (u *up) Write(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.log.Write(p)
}

func (u *up) said() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.log.String()
}

// startUpgradable runs a daemon until the test ends. Wrap is what its command is made to be.
func startUpgradable(t *testing.T, env []string, wrap ...string) *up {
	t.Helper()
	// The processes after the first are nobody's children: they shall be ours, who wait for them.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	dir := programs(t, "lambent/cmd/lambent", "lambent/cmd/lambent-init", "lambent/cmd/lambent-exec")
	data := t.TempDir()
	u := &up{bin: filepath.Join(dir, "lambent")}
	u.env = append(os.Environ(), append([]string{"LAMBENT_INITBIN=" + dir, "XDG_CONFIG_HOME=" + t.TempDir()}, env...)...)
	args := append(wrap, u.bin, "up", "--data", data, "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0")
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env, cmd.Stderr, cmd.WaitDelay = u.env, u, 10*time.Second // the processes after it have its stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		pid := cmd.Process.Pid
		if len(wrap) > 0 {
			pid = childOf(pid, u.bin)
		}
		stop(t, pid)
		_ = cmd.Wait() // an upgrade may have ended it before
		if t.Failed() {
			t.Log(u.said())
		}
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "serving") {
	}
	go func() { // later processes say it again
		for lines.Scan() {
		}
	}()
	u.node = attach(t, data)
	if len(wrap) == 0 {
		t.Cleanup(func() {
			if u.holder() != "stopped" {
				stop(t, u.pid())
			}
		})
	}
	return u
}

// stop ends a process that the test has started, if it is there.
func stop(t *testing.T, pid int) {
	t.Helper()
	if pid <= 1 {
		t.Fatalf("process %d is not ours", pid)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err == nil && !gone(pid, 20*time.Second) {
		t.Errorf("process %d does not end", pid)
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// gone waits for the end of a process that is our child, or was adopted.
func gone(pid int, within time.Duration) bool {
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return true
		}
		_, after, _ := strings.Cut(string(raw), ") ")
		if strings.HasPrefix(after, "Z") {
			_, _ = syscall.Wait4(pid, nil, syscall.WNOHANG, nil) // exec.Cmd may be faster
			return true
		}
	}
	return false
}

// pid is that of the process that holds the data folder.
func (u *up) pid() int {
	u.t.Helper()
	pid, err := strconv.Atoi(u.holder())
	if err != nil {
		u.t.Fatal(err)
	}
	return pid
}

// holder is what the lock file says of who has it.
func (u *up) holder() string {
	u.t.Helper()
	raw, err := os.ReadFile(filepath.Join(u.dir, "lock"))
	if err != nil {
		u.t.Fatal(err)
	}
	return strings.TrimSpace(string(raw))
}

// upgrade runs `lambent upgrade`, and gives what it printed.
func (u *up) upgrade(args ...string) (stdout, stderr string, err error) {
	cmd := exec.Command(u.bin, append([]string{"upgrade", "--data", u.dir}, args...)...)
	var o, e bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = u.env, &o, &e
	err = cmd.Run()
	return o.String(), e.String(), err
}

// mustUpgrade upgrades and waits for the end of the old process.
func (u *up) mustUpgrade() {
	u.t.Helper()
	old := u.pid()
	stdout, stderr, err := u.upgrade("--json")
	if err != nil {
		u.t.Fatalf("%v: %s", err, stderr)
	}
	var now struct{ PID int }
	if err := json.Unmarshal([]byte(stdout), &now); err != nil || now.PID == old || now.PID != u.pid() {
		u.t.Fatalf("process %d after %d, the lock is of %d: %v", now.PID, old, u.pid(), err)
	}
	if !gone(old, 30*time.Second) {
		u.t.Fatalf("the old process %d does not end", old)
	}
}

// instance is the one that serves a request now.
func (u *up) instance(path string) string {
	u.t.Helper()
	a := u.call("POST", path, strings.NewReader("x"))
	a.want(u.t, 200, "x")
	return u.record(a.header.Get("Lambent-Invocation")).Instance
}

// No request fails across upgrades, and instances stay warm.
func TestUpgradeUnderLoad(t *testing.T) {
	u := startUpgradable(t, nil)
	u.deployLoad()
	warm := u.instance("/fn/u/echo")
	endpoints, err := os.ReadFile(filepath.Join(u.dir, "endpoints.json"))
	if err != nil {
		t.Fatal(err)
	}
	first := u.pid()
	following, unfollow := context.WithCancel(t.Context())
	var followed []lambent.LogLine
	var follower sync.WaitGroup
	follower.Go(func() {
		for line, err := range u.client.Logs(following, "default", "u", client.LogQuery{Follow: true, Tail: -1}) {
			if err != nil {
				t.Error(err)
				return
			}
			followed = append(followed, line)
		}
	})
	stop := begin(u)
	for range 3 {
		time.Sleep(time.Second)
		u.mustUpgrade()
	}
	time.Sleep(time.Second)
	l := stop()
	t.Logf("%d requests and sessions across 3 upgrades", l.calls.Load())
	if now := u.instance("/fn/u/echo"); now != warm {
		t.Errorf("instance %s serves, before it was %s", now, warm)
	}
	if now, err := os.ReadFile(filepath.Join(u.dir, "endpoints.json")); err != nil || !bytes.Equal(now, endpoints) {
		t.Errorf("endpoints %s, %v; before %s", now, err, endpoints)
	}
	if u.pid() == first {
		t.Error("the first process still serves")
	}
	for _, id := range l.ids {
		u.record(id)
	}
	records, err := u.client.Invocations(t.Context(), "default", "u", 1000)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, r := range records {
		if seen[r.ID]++; seen[r.ID] > 1 {
			t.Errorf("invocation %s is recorded twice", r.ID)
		}
	}
	lines := u.lines("u", "slow ")
	time.Sleep(200 * time.Millisecond) // the follower is behind
	unfollow()
	follower.Wait()
	if len(followed) != len(lines) {
		t.Errorf("who followed saw %d lines of %d", len(followed), len(lines))
	}
	for _, line := range lines {
		if line.Invocation == "" && len(line.InFlight) == 0 {
			t.Errorf("nobody knows whose line it is: %+v", line)
		}
	}
	if n := len(l.ids); n == 0 || len(lines) == 0 {
		t.Errorf("%d slow requests, %d lines of their log", n, len(lines))
	}
}

// Many connections that never rest, each of which brings a late request, do not keep an upgrade from its end.
func TestUpgradeOfManyConnections(t *testing.T) {
	u := startUpgradable(t, nil)
	u.deploy("s", files{"public/index.html": "static"}, lambent.Settings{Runtime: "static", Handler: "public"})
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{up: u, ctx: ctx}
	for range 600 {
		l.each("static", func(c *http.Client, _ int) error { return l.ask(c, "GET", "/fn/s/", nil, is("static")) })
	}
	for l.calls.Load() < 3000 && !t.Failed() { // all are connected
		time.Sleep(10 * time.Millisecond)
	}
	u.mustUpgrade()
	cancel()
	l.wg.Wait()
}

// What goes wrong on the side of the new process leaves everything as it was.
func TestUpgradeFails(t *testing.T) {
	u := startUpgradable(t, nil)
	u.deployLoad()
	warm := u.instance("/fn/u/echo")
	dir := programs(t, "./testdata/successor")
	program := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.Link(filepath.Join(dir, "successor"), path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	script := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	pid := u.pid()
	for _, c := range []struct {
		name, binary string
		want         []string
	}{
		{"nothing", filepath.Join(dir, "nothing"), []string{"no such file"}},
		{"a text", plain, []string{"permission denied"}},
		{"a folder", dir, []string{"permission denied"}},
		{"another machine's", foreign(t, dir), []string{"exec format error"}},
		{"another program", "/bin/false", []string{"exit status 1"}},
		{"refuses the arguments", script("flags", `exec `+u.bin+` "$@" --no-such-flag`), []string{"unknown flag", "no-such-flag"}},
		{"another folder", script("data", `exec `+u.bin+` "$@" --data `+t.TempDir()), []string{"lock"}},
		{"cannot open the store", script("store", `exec unshare --mount sh -c 'mount -t tmpfs -o ro none `+u.dir+`/nats && exec "$0" "$@"' `+u.bin+` "$@"`), []string{"handing the store over", "read-only file system"}},
		{"cannot read its certificate", script("certificate", `exec `+u.bin+` "$@" --tls-cert `+plain+` --tls-key `+plain), []string{"TLS"}},
		{"has no room for its program", script("room", `ulimit -f 0; exec `+u.bin+` "$@"`), []string{"file too large"}},
		{"exits", program("exit-hello"), []string{"exit status 7", "last words"}},
		{"hangs", program("hang-hello"), []string{`did not get to "hello"`, "last words"}},
		{"speaks another protocol", program("old-hello"), []string{"another protocol"}},
		{"panics later", program("panic-prepared"), []string{"exit status 2", "on purpose"}},
		{"lies", program("lie-prepared"), []string{"nonsense"}},
		{"exits without the store", program("exit-ready"), []string{"exit status 7", "last words"}},
		{"hangs with the store", program("hang-ready"), []string{`did not get to "ready"`}},
		{"says that it failed", program("fail-ready"), []string{"no luck", "hint: try"}},
		{"panics at the end", program("panic-open"), []string{"exit status 2", "on purpose"}},
		{"hangs at the end", program("hang-open"), []string{`did not get to "open"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := u.call("POST", "/fn/u/echo", strings.NewReader("before"))
			_, stderr, err := u.upgrade(c.binary, "--step", "2s")
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(stderr, "upgrade_failed") {
				t.Errorf("%v: %s", err, stderr)
			}
			for _, want := range c.want {
				if !strings.Contains(stderr, want) {
					t.Errorf("it does not say %q: %s", want, stderr)
				}
			}
			if u.pid() != pid {
				t.Errorf("the lock is of process %d", u.pid())
			}
			if now := u.instance("/fn/u/echo"); now != warm {
				t.Errorf("instance %s serves, before it was %s", now, warm)
			}
			u.record(before.header.Get("Lambent-Invocation"))
			u.python("new", fmt.Sprintf("def handler(event, context): return %q", c.name), nil)
			u.call("GET", "/fn/new", nil).want(t, 200, c.name)
		})
	}
	failures := 0
	for _, err := range u.client.SystemEvents(t.Context(), client.EventQuery{Kind: lambent.EventUpgradeFailed, Limit: 100}) {
		if err != nil {
			t.Fatal(err)
		}
		failures++
	}
	if failures < 18 {
		t.Errorf("%d events of failed upgrades", failures)
	}
	u.mustUpgrade()
	if now := u.instance("/fn/u/echo"); now != warm {
		t.Errorf("after all: instance %s serves, before it was %s", now, warm)
	}
}

// When not even the old process can open the store again, functions are served, and all is well once it can.
func TestUpgradeSpoilsTheStore(t *testing.T) {
	u := startUpgradable(t, nil)
	u.python("p", "def handler(event, context): return {'statusCode': 200, 'body': 'p'}", nil)
	binary := filepath.Join(programs(t, "./testdata/successor"), "successor")
	if err := os.Rename(binary, filepath.Join(filepath.Dir(binary), "spoil-ready")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, stderr, err := u.upgrade(filepath.Join(filepath.Dir(binary), "spoil-ready")); err == nil || !strings.Contains(stderr, "exit status 7") {
			t.Errorf("%v: %s", err, stderr)
		}
		u.call("GET", "/fn/p", nil).want(t, 200, "p")
		if _, err := u.client.Function(t.Context(), "default", "p"); !lambent.HasCode(err, lambent.CodeShuttingDown) || !strings.Contains(err.Error(), "store") {
			t.Errorf("without a store: %v", err)
		}
		store := filepath.Join(u.dir, "nats")
		if err := errors.Join(os.Remove(store), os.Rename(store+".away", store)); err != nil {
			t.Fatal(err)
		}
		var err error
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			if _, err = u.client.Function(t.Context(), "default", "p"); err == nil {
				break
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	u.mustUpgrade()
}

// foreign builds a program for another kind of machine.
func foreign(t *testing.T, dir string) string {
	t.Helper()
	arch := "arm64"
	if runtime.GOARCH == arch {
		arch = "amd64"
	}
	bin := filepath.Join(dir, arch)
	cmd := exec.Command("go", "build", "-o", bin, "./testdata/successor")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+arch)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return bin
}

// put uploads a bundle.
func (u *up) put(bundle io.Reader) error {
	key, err := os.ReadFile(u.at.KeyFile)
	if err != nil {
		return err
	}
	req, err := http.NewRequest("PUT", u.at.Control+"/v1/code", bundle)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(key)))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// A request to the control API that does not end keeps the store; it is told, and all goes on.
func TestUpgradeIsRefused(t *testing.T) {
	u := startUpgradable(t, nil)
	r, w := io.Pipe()
	uploaded := make(chan error, 1)
	go func() { uploaded <- u.put(r) }()
	whole, err := io.ReadAll(files{"main.py": hello}.zip(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(whole[:10]); err != nil {
		t.Fatal(err)
	}
	_, stderr, err := u.upgrade("--step", "1s")
	if err == nil || !strings.Contains(stderr, "conflict") || !strings.Contains(stderr, "PUT /v1/code") && !strings.Contains(stderr, "POST /v1/code") {
		t.Errorf("%v: %s", err, stderr)
	}
	if _, err := w.Write(whole[10:]); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if err := <-uploaded; err != nil {
		t.Error(err)
	}
	u.mustUpgrade()
}

// A process that waits for its turn ends when the one before does.
func TestUpgradeEndsWithTheOldProcess(t *testing.T) {
	u := startUpgradable(t, nil)
	r, w := io.Pipe()
	defer w.Close()
	go func() { _ = u.put(r) }() // it never ends
	if _, err := w.Write([]byte("PK")); err != nil {
		t.Fatal(err)
	}
	old := u.pid()
	done := make(chan string, 1)
	go func() {
		_, stderr, _ := u.upgrade() // it cannot succeed
		done <- stderr
	}()
	child := 0
	for range 1000 {
		if raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", old, old)); err == nil {
			fmt.Sscan(string(raw), &child)
		}
		if child == 0 {
			child = childOf(old, u.bin)
		}
		if child != 0 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if child == 0 {
		t.Fatal("no second process")
	}
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if !gone(child, 10*time.Second) {
		t.Errorf("process %d goes on without the one before", child)
		_ = syscall.Kill(child, syscall.SIGKILL)
	}
	if stderr := <-done; !strings.Contains(stderr, "did not tell the outcome") {
		t.Error(stderr)
	}
}

// childOf finds a child that runs the program bin.
func childOf(parent int, bin string) int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		_, after, ok := strings.Cut(string(raw), ") ")
		if exe, lerr := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err != nil || !ok || lerr != nil || exe != bin {
			continue
		}
		state, ppid := "", 0
		if _, err := fmt.Sscan(after, &state, &ppid); err == nil && ppid == parent {
			return pid
		}
	}
	return 0
}

// SIGUSR2 upgrades, to what stands in the place of the program, and again. One that comes later, to a process that serves what
// it began, does not end it.
func TestUpgradeBySignal(t *testing.T) {
	u := startUpgradable(t, nil)
	u.deployLoad()
	warm := u.instance("/fn/u/echo")
	for range 2 {
		next := u.bin + ".next"
		if raw, err := os.ReadFile(u.bin); err != nil || os.WriteFile(next, raw, 0o755) != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, u.bin); err != nil {
			t.Fatal(err)
		}
		old := u.pid()
		stream, err := http.Get(u.at.Functions + "/fn/u/stream?ms=2000")
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := syscall.Kill(old, syscall.SIGUSR2); err != nil {
				t.Fatal(err)
			}
			for end := time.Now().Add(20 * time.Second); u.pid() == old && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			}
			u.instance("/fn/u/echo") // by the new process
		}
		raw, err := io.ReadAll(stream.Body)
		stream.Body.Close()
		if err != nil || !strings.HasSuffix(string(raw), "line\nend\n") {
			t.Errorf("a response that the old process had begun: %q, %v", raw, err)
		}
		if !gone(old, 20*time.Second) {
			t.Fatal("the old process does not end")
		}
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", u.pid())); err != nil || exe != u.bin {
			t.Errorf("%q serves, %v", exe, err)
		}
		if now := u.instance("/fn/u/echo"); now != warm {
			t.Errorf("instance %s serves, before it was %s", now, warm)
		}
	}
	if !strings.Contains(u.said(), "upgraded") {
		t.Error("the log does not tell of it")
	}
}

// The first process of a container ends with it, and all others.
func TestUpgradeOfPID1(t *testing.T) {
	u := startUpgradable(t, nil, "unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
	_, stderr, err := u.upgrade()
	if err == nil || !strings.Contains(stderr, "conflict") || !strings.Contains(stderr, "roll the pod or the container") {
		t.Errorf("%v: %s", err, stderr)
	}
	u.call("GET", "/fn/nobody", nil).want(t, 404, "")
}

// What systemd is told.
func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	next := func(want ...string) string {
		t.Helper()
		if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 4096)
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains("\n"+string(buf[:n])+"\n", "\n"+w) {
				t.Errorf("got %q, want %q", buf[:n], w)
			}
		}
		return string(buf[:n])
	}
	u := startUpgradable(t, []string{"NOTIFY_SOCKET=" + path})
	next("READY=1\n", "STATUS=functions at")
	if _, _, err := u.upgrade("/bin/false"); err == nil {
		t.Fatal("/bin/false serves")
	}
	next("RELOADING=1\n", "MONOTONIC_USEC=")
	next("READY=1\n")
	u.mustUpgrade()
	next("RELOADING=1\n", "MONOTONIC_USEC=")
	next(fmt.Sprintf("MAINPID=%d\n", u.pid()), "READY=1\n")
	next("READY=1\n")
	stop(t, u.pid())
	next("STOPPING=1\n")
}

// A connection that was there before an upgrade serves one request more, which the new process sees as it is.
func TestLateRequests(t *testing.T) {
	u := startUpgradable(t, nil)
	u.deployLoad()
	targets := []string{"/fn/u/forwarded", "/fn/u/forwarded/../forwarded?a=1;b=%zz&&", "/fn/u//forwarded%2f?", "/fn/u/forwarded?x"}
	type late struct {
		net.Conn
		in *bufio.Reader
	}
	ask := func(c late, target string) (answer string, closes bool) {
		t.Helper()
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: some.where:1\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: gopher\r\nLambent-Late-Address: 192.0.2.9:1\r\nLambent-Late-Scheme: https\r\n\r\n", target); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(c.in, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		raw, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(resp.StatusCode, " ", string(raw)), resp.Close
	}
	var conns []late
	var before []string
	for _, target := range targets {
		c, err := net.Dial("tcp", strings.TrimPrefix(u.at.Functions, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		l := late{c, bufio.NewReader(c)}
		answer, closes := ask(l, target)
		if closes {
			t.Errorf("%s: the connection closes", target)
		}
		conns, before = append(conns, l), append(before, answer)
	}
	if !strings.Contains(before[0], `["192.0.2.7, 127.0.0.1"] ["http"] "some.where:1" "/forwarded"`) {
		t.Error(before[0])
	}
	if _, stderr, err := u.upgrade(); err != nil {
		t.Fatal(stderr)
	}
	for i, c := range conns {
		answer, closes := ask(c, targets[i])
		if answer != before[i] || !closes {
			t.Errorf("%s: before %s, late %s, closed: %v", targets[i], before[i], answer, closes)
		}
	}
}
