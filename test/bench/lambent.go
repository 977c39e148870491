package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	words "lambent"
	"lambent/client"
)

// lambent is a running daemon.
type lambent struct {
	cmd     *exec.Cmd
	data    string
	host    string // of the functions listener
	client  *client.Client
	started time.Time // just before its exec
}

// up starts bin/lambent on the folder data.
func up(ctx context.Context, data string) (*lambent, error) {
	l := &lambent{data: data}
	l.cmd = exec.CommandContext(ctx, "bin/lambent", "up", "--data", data, "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0")
	l.cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+filepath.Join(data, "config"))
	// Its log would stand in the middle of the report.
	log, err := os.Create(data + ".log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	l.cmd.Stderr = log
	l.cmd.Cancel = func() error { return l.cmd.Process.Signal(syscall.SIGTERM) }
	l.cmd.WaitDelay = 40 * time.Second
	out, err := l.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	l.started = time.Now()
	if err := l.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w: run make build first", err)
	}
	serving := false
	lines := bufio.NewScanner(out)
	for !serving && lines.Scan() {
		serving = strings.HasPrefix(lines.Text(), "serving")
	}
	if !serving {
		failed := errors.Join(errors.New("lambent did not begin to serve"), l.cmd.Wait())
		told, err := os.ReadFile(log.Name())
		return nil, errors.Join(failed, err, errors.New(string(told)))
	}
	go func() {
		for lines.Scan() { // so that it never waits for us
		}
	}()
	raw, err := os.ReadFile(filepath.Join(data, "endpoints.json"))
	if err != nil {
		return nil, err
	}
	var at struct{ Functions, Control string }
	if err := json.Unmarshal(raw, &at); err != nil {
		return nil, err
	}
	key, err := os.ReadFile(filepath.Join(data, "admin.key"))
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(at.Functions)
	if err != nil {
		return nil, err
	}
	l.host = u.Host
	l.client, err = client.New(at.Control, strings.TrimSpace(string(key)))
	return l, err
}

// onLambent runs f with a new daemon, and a folder, that are gone afterwards.
func onLambent(ctx context.Context, short bool, f func(ctx context.Context, l *lambent, dir string, short bool) error) (err error) {
	dir, err := os.MkdirTemp("", "lambent-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	l, err := up(ctx, filepath.Join(dir, "data"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.stop()) }()
	return f(ctx, l, dir, short)
}

// stop ends the daemon and waits for it.
func (l *lambent) stop() error {
	if err := l.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return l.cmd.Wait()
}

// deploy runs the CLI as a user would.
func (l *lambent) deploy(ctx context.Context, dir string, args ...string) error {
	cmd := exec.CommandContext(ctx, "bin/lambent", append([]string{"deploy", dir}, args...)...)
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+filepath.Join(l.data, "config"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("deploy %s: %w: %s", dir, err, out)
	}
	return nil
}

// settings gives the complete settings of a function.
func (l *lambent) settings(ctx context.Context, name string) (words.Settings, error) {
	f, err := l.client.Function(ctx, words.DefaultNamespace, name)
	if err != nil {
		return words.Settings{}, err
	}
	return f.Latest.Settings, nil
}

// function is the target of a POST of body to a function.
func (l *lambent) function(name string, body []byte) target {
	t := post("lambent "+name, "tcp", l.host, l.host, "/fn/"+name+"/", body)
	t.pid = l.cmd.Process.Pid
	return t
}

// rss is the resident memory of the daemon, in bytes.
func (l *lambent) rss() (int64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", l.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			var kb int64
			_, err := fmt.Sscan(rest, &kb)
			return kb << 10, err
		}
	}
	return 0, errors.New("no VmRSS in /proc/PID/status")
}
