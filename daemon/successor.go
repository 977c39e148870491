package daemon

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"lambent"
	"lambent/internal/handover"
)

// successor is the process that takes the place of this one, or tries to.
type successor struct {
	hello
	binary string
	step   time.Duration
	cmd    *exec.Cmd
	conn   *handover.Conn
	words  *words        // on its stderr
	said   chan struct{} // closed when it has said that it accepts, or can say nothing any more
	serves atomic.Bool   // set before said is closed
	ended  chan struct{} // closed when the process has ended and said its last words
	late   atomic.Bool   // it was ended for being too slow
}

// Bounds of the steps of an upgrade: the first has nothing to do, another may read a very large store.
const (
	helloTimeout = 10 * time.Second
	stepTimeout  = time.Minute
	// lastWords is how long a process that has ended may keep its stderr open, by what it started.
	lastWords = time.Second
)

// succeed starts binary with the arguments of this process. Step bounds each of its steps.
func (n *node) succeed(binary string, step time.Duration) (*successor, error) {
	cmd := exec.Command(binary, n.cfg.Args...)
	cmd.Stdout = os.Stdout
	// It gets our stderr once it serves: until then we tell who asked for the upgrade what it says.
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	cmd.Stderr = in
	for _, setting := range os.Environ() {
		if !strings.HasPrefix(setting, "WATCHDOG_PID=") { // it is ours, and the watchdog then the other's
			cmd.Env = append(cmd.Env, setting)
		}
	}
	s := &successor{binary: binary, step: step, cmd: cmd, words: &words{}, said: make(chan struct{}), ended: make(chan struct{})}
	if s.conn, err = handover.Start(cmd); err != nil {
		out.Close()
		return nil, failed("%s cannot be started: %w", binary, err)
	}
	go func() {
		var reading sync.WaitGroup
		reading.Go(func() { _, _ = io.Copy(io.MultiWriter(os.Stderr, s.words), out) }) // ends with the pipe
		_ = cmd.Wait()                                                                 // however it ended
		_ = out.SetReadDeadline(time.Now().Add(lastWords))
		reading.Wait()
		out.Close()
		close(s.ended)
	}()
	return s, nil
}

func failed(format string, args ...any) *lambent.Error {
	return lambent.Errorf(lambent.CodeUpgradeFailed, format, args...)
}

// tell sends m. If it cannot be sent, what is expected next says why.
func (s *successor) tell(m message, files ...syscall.Conn) { _ = s.conn.Send(m, files...) }

// expect waits for a step of the new process.
func (s *successor) expect(want step) (message, error) {
	within := s.step
	if want == saysHello {
		within = min(within, helloTimeout)
	}
	timer := time.AfterFunc(within, func() { s.late.Store(true); s.kill() })
	defer timer.Stop()
	var m message
	files, err := s.conn.Receive(&m)
	for _, f := range files {
		f.Close() // there should be none
	}
	switch {
	case s.late.Load():
		return m, failed("%s did not get to %q within %s", s.binary, want, within)
	case errors.Is(err, io.EOF):
		<-s.ended
		return m, failed("%s ended before it got to %q: %s", s.binary, want, s.cmd.ProcessState)
	case err != nil:
		return m, failed("%s does not speak as it should: %w", s.binary, err)
	case m.Error != nil:
		return m, failed("%s: %s", s.binary, m.Error.Message).WithHint("%s", m.Error.Hint)
	case m.Step != want:
		return m, failed("%s said %q instead of %q", s.binary, m.Step, want)
	}
	return m, nil
}

// await waits until it says that it accepts.
func (s *successor) await() {
	var m message
	_, err := s.conn.Receive(&m)
	s.serves.Store(err == nil && m.Step == saysServing)
	close(s.said)
}

// served waits until it serves, for no longer than a step. The error says that it does not.
func (s *successor) served(ctx context.Context) (*Upgraded, error) {
	ctx, cancel := context.WithTimeout(ctx, s.step+settleTime)
	defer cancel()
	select {
	case <-s.said:
	case <-ctx.Done():
	}
	if s.serves.Load() {
		return &Upgraded{s.PID, s.Version}, nil
	}
	return nil, failed("process %d has taken over, but does not serve", s.PID).WithHint("see its log; when it has ended, start the node again: nothing is lost")
}

// kill ends the process and its connection.
func (s *successor) kill() {
	_ = s.cmd.Process.Kill() // an error means that it has ended already
	s.conn.Close()
}

// explain adds to err what the process said last.
func (s *successor) explain(err error) error {
	<-s.ended
	e := *lambent.ErrorOf(err)
	e.Trace = s.words.String()
	return &e
}

// dial makes a connection for late requests of a listener.
func (s *successor) dial(listener string) func(context.Context) (net.Conn, error) {
	return func(context.Context) (net.Conn, error) {
		ours, theirs, err := handover.Pair()
		if err != nil {
			return nil, err
		}
		defer theirs.Close()
		if err := s.conn.Send(message{Late: listener}, theirs); err != nil {
			return nil, errors.Join(err, ours.Close())
		}
		return ours, nil
	}
}

// words keeps the last of what is written to it.
type words struct {
	mu   sync.Mutex
	last []byte
}

const maxWords = 4 << 10

// Write implements io.Writer.
func (w *words) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = append(w.last, p...)
	w.last = w.last[max(0, len(w.last)-maxWords):]
	return len(p), nil
}

// String gives it from the beginning of a line on.
func (w *words) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := string(w.last)
	if len(w.last) == maxWords {
		_, text, _ = strings.Cut(text, "\n")
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}
