package embednats_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
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
