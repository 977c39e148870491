package measure

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"lambent"
	"lambent/client"
)

// Daemon is a running bin/lambent.
type Daemon struct {
	Data    string
	Host    string // of the functions listener
	Client  *client.Client
	Started time.Time // just before its exec

	process *process
	args    []string
}

// Start runs bin/lambent with further arguments on the folder data, and returns when it serves. Its log goes to
// the file data.log.
func Start(ctx context.Context, data string, args ...string) (*Daemon, error) {
	d := &Daemon{Data: data, args: args}
	return d, d.start(ctx, "127.0.0.1:0", "127.0.0.1:0")
}

// Restart runs it again at the same addresses, after Kill or Stop.
func (d *Daemon) Restart(ctx context.Context) error {
	control, err := url.Parse(d.Client.URL())
	if err != nil {
		return err
	}
	return d.start(ctx, d.Host, control.Host)
}

func (d *Daemon) start(ctx context.Context, functions, control string) error {
	args := append([]string{"up", "--data", d.Data, "--listen", functions, "--control", control}, d.args...)
	cmd := exec.CommandContext(ctx, "bin/lambent", args...)
	cmd.Env = d.env()
	// Its log would stand in the middle of the report.
	log, err := os.OpenFile(d.Log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stderr = log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 40 * time.Second
	out, in, err := os.Pipe() // it outlives the process, as the one that takes its place does
	if err != nil {
		return err
	}
	cmd.Stdout = in
	d.Started = time.Now()
	err = cmd.Start()
	in.Close()
	if err != nil {
		out.Close()
		return fmt.Errorf("%w: run make build first", err)
	}
	d.process = ofCommand(cmd)
	serving := false
	lines := bufio.NewScanner(out)
	for !serving && lines.Scan() {
		serving = strings.HasPrefix(lines.Text(), "serving")
	}
	if !serving {
		out.Close()
		failed := errors.Join(errors.New("lambent did not begin to serve"), d.process.wait())
		told, err := os.ReadFile(d.Log())
		return errors.Join(failed, err, errors.New(string(told)))
	}
	go func() {
		defer out.Close()
		for lines.Scan() { // so that it never waits for us
		}
	}()
	return d.connect()
}

// connect finds out where it serves.
func (d *Daemon) connect() error {
	raw, err := os.ReadFile(filepath.Join(d.Data, "endpoints.json"))
	if err != nil {
		return err
	}
	var at struct{ Functions, Control string }
	if err := json.Unmarshal(raw, &at); err != nil {
		return err
	}
	key, err := d.key()
	if err != nil {
		return err
	}
	u, err := url.Parse(at.Functions)
	if err != nil {
		return err
	}
	d.Host = u.Host
	d.Client, err = client.New(at.Control, key)
	return err
}

// key is the administrator's.
func (d *Daemon) key() (string, error) {
	raw, err := os.ReadFile(filepath.Join(d.Data, "admin.key"))
	return strings.TrimSpace(string(raw)), err
}

// With runs f with a new daemon, and a folder, that are gone afterwards.
func With(ctx context.Context, f func(ctx context.Context, d *Daemon, dir string) error) (err error) {
	dir, err := os.MkdirTemp("", "lambent-measure-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	d, err := Start(ctx, filepath.Join(dir, "data"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Stop()) }()
	return f(ctx, d, dir)
}

// Log is the file that it logs to.
func (d *Daemon) Log() string { return d.Data + ".log" }

// PID is its process.
func (d *Daemon) PID() int { return d.process.pid }

// Stop ends the daemon and waits for it.
func (d *Daemon) Stop() error {
	if err := syscall.Kill(d.process.pid, syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop lambent: %w", errors.Join(err, d.process.wait()))
	}
	return d.process.wait()
}

// Kill ends it without a warning, and returns when it has ended.
func (d *Daemon) Kill() error {
	if err := syscall.Kill(d.process.pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill lambent: %w", errors.Join(err, d.process.wait()))
	}
	_ = d.process.wait() // killed, it says
	return nil
}

// Upgrade has another process take its place. The old one may go on for a while; wait returns when it has ended.
func (d *Daemon) Upgrade(ctx context.Context) (wait func() error, err error) {
	cmd := exec.CommandContext(ctx, "bin/lambent", "upgrade", "--data", d.Data, "--json")
	cmd.Env = d.env()
	var told bytes.Buffer
	cmd.Stderr = &told
	raw, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("lambent upgrade: %w: %s", err, &told)
	}
	var now struct{ PID int }
	if err := json.Unmarshal(raw, &now); err != nil {
		return nil, fmt.Errorf("lambent upgrade: %w: %s", err, raw)
	}
	next, err := ofPID(now.PID)
	if err != nil {
		return nil, err
	}
	old := d.process
	d.process = next
	return old.wait, nil
}

func (d *Daemon) env() []string {
	return append(os.Environ(), "XDG_CONFIG_HOME="+filepath.Join(d.Data, "config"))
}

// CLI runs a command as a user would.
func (d *Daemon) CLI(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "bin/lambent", args...)
	cmd.Env = d.env()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("lambent %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// Deploy deploys the folder dir with further arguments.
func (d *Daemon) Deploy(ctx context.Context, dir string, args ...string) error {
	return d.CLI(ctx, append([]string{"deploy", dir}, args...)...)
}

// Settings gives the complete settings of a function.
func (d *Daemon) Settings(ctx context.Context, name string) (lambent.Settings, error) {
	f, err := d.Client.Function(ctx, lambent.DefaultNamespace, name)
	if err != nil {
		return lambent.Settings{}, err
	}
	return f.Latest.Settings, nil
}

// Goroutines is how many goroutines the daemon has, as it tells in its metrics.
func (d *Daemon) Goroutines(ctx context.Context) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.Client.URL()+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	key, err := d.key()
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), "go_goroutines "); ok {
			return strconv.Atoi(value)
		}
	}
	return 0, fmt.Errorf("no go_goroutines in the metrics: %s", resp.Status)
}

// RSS is the resident memory of the daemon, in bytes.
func (d *Daemon) RSS() (int64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.PID()))
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
