package embednats_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"lambent/internal/embednats"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, dir string, log io.Writer) *embednats.Server {
	t.Helper()
	s, err := embednats.Start(embednats.Options{Dir: dir, Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestKeepsWhatWasAcknowledged(t *testing.T) {
	dir := t.TempDir()
	for round := range uint64(3) {
		s := start(t, dir, io.Discard)
		js, err := jetstream.New(s.Conn())
		if err != nil {
			t.Fatal(err)
		}
		stream, err := js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}})
		if err != nil {
			t.Fatal(err)
		}
		if n := stream.CachedInfo().State.Msgs; n != round {
			t.Errorf("round %d: %d messages", round, n)
		}
		if _, err := js.Publish(t.Context(), "s", []byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(s.StreamDir("S")); err != nil {
			t.Error(err)
		}
		begin := time.Now()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		t.Logf("closed in %s", time.Since(begin))
	}
}

// What a restart of JetStream inside the server leaves in place: connections, what was acknowledged, and no goroutine.
func TestRestore(t *testing.T) {
	s := start(t, t.TempDir(), io.Discard)
	js, err := jetstream.New(s.Conn())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Fault("S"); err != nil {
		t.Errorf("a healthy stream: %v", err)
	}
	if err := s.Fault("none"); err == nil {
		t.Error("no fault of a stream that is not there")
	}
	goroutines := 0
	for round := range uint64(5) {
		if _, err := js.Publish(t.Context(), "s", []byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := s.Restore(t.Context()); err != nil {
			t.Fatal(err)
		}
		stream, err := js.Stream(t.Context(), "S")
		if err != nil || stream.CachedInfo().State.Msgs != round+1 {
			t.Fatalf("round %d: %+v, %v", round, stream, err)
		}
		if round == 0 {
			goroutines = runtime.NumGoroutine()
		}
	}
	if n := runtime.NumGoroutine(); n > goroutines+2 { // some come and go
		t.Errorf("%d goroutines, %d after the first round", n, goroutines)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// A Restore that is broken off leaves a server that can be restored, and closed.
func TestRestoreIsBrokenOff(t *testing.T) {
	s := start(t, t.TempDir(), io.Discard)
	for _, after := range []time.Duration{0, time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond} {
		ctx, cancel := context.WithTimeout(t.Context(), after)
		if err := s.Restore(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after %s: %v", after, err)
		}
		cancel()
	}
	if err := s.Restore(t.Context()); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Restore(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// The directory of a server that may still write there is nobody else's.
func TestServerThatDoesNotStop(t *testing.T) {
	dir := t.TempDir()
	s, err := embednats.Start(embednats.Options{Dir: dir, CloseTimeout: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err == nil {
		t.Fatal("it stopped within a nanosecond")
	}
	if _, err := embednats.Start(embednats.Options{Dir: dir}); !errors.Is(err, embednats.ErrInUse) {
		t.Errorf("got %v", err)
	}
}

func TestSecondServerIsRefused(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir, io.Discard)
	if _, err := embednats.Start(embednats.Options{Dir: dir}); !errors.Is(err, embednats.ErrInUse) {
		t.Errorf("got %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := start(t, dir, io.Discard).Close(); err != nil {
		t.Error(err)
	}
}

func TestRepairsAreLogged(t *testing.T) {
	dir := t.TempDir()
	var log bytes.Buffer
	s := start(t, dir, &log)
	js, err := jetstream.New(s.Conn())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(context.Background(), jetstream.StreamConfig{Name: "S"}); err != nil {
		t.Fatal(err)
	}
	meta := s.StreamDir("S") + "/meta.inf"
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(meta, 3); err != nil {
		t.Fatal(err)
	}
	if err := start(t, dir, &log).Close(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(log.Bytes(), []byte("meta.inf")) {
		t.Errorf("nothing said of the damaged file: %s", &log)
	}
}

// TestStuckStart changes the sequence of a stored message, at which NATS counts through all that seem to
// be missing. The server that does so is left behind in a process of its own.
func TestStuckStart(t *testing.T) {
	if dir := os.Getenv("LAMBENT_TEST_STUCK"); dir != "" {
		_, err := embednats.Start(embednats.Options{Dir: dir, StartTimeout: time.Second})
		if errors.Is(err, embednats.ErrStuck) {
			os.Exit(3)
		}
		os.Exit(4)
	}
	dir := t.TempDir()
	s := start(t, dir, io.Discard)
	js, err := jetstream.New(s.Conn())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"a.subject", "b.subject"}}); err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{"a.subject", "b.subject", "a.subject"} {
		if _, err := js.Publish(t.Context(), subject, make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	block := s.StreamDir("S") + "/msgs/1.blk"
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(block)
	if err != nil {
		t.Fatal(err)
	}
	// A record is a length of 4 bytes, the sequence and the time of 8, a length of 2, and the subject.
	raw[bytes.Index(raw, []byte("b.subject"))-2-8-8+4] ^= 0x40
	if err := os.WriteFile(block, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	child := exec.Command(os.Args[0], "-test.run=^TestStuckStart$")
	child.Env = append(os.Environ(), "LAMBENT_TEST_STUCK="+dir)
	out, err := child.CombinedOutput()
	if child.ProcessState.ExitCode() != 3 {
		t.Errorf("the child ended with %v: %s", err, out)
	}
}
