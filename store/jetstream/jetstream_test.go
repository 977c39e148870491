package jetstream_test

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"testing"
	"time"

	js "github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"lambent/internal/embednats"
	"lambent/store"
	"lambent/store/jetstream"
	"lambent/store/storetest"
	"lambent/test/fault"
)

func TestMain(m *testing.M) {
	fault.Launch()
	goleak.VerifyTestMain(m)
}

// node is a store with its server; Close closes both.
type node struct {
	*jetstream.Store
	server *embednats.Server
}

func (n node) Close() error {
	if err := n.Store.Close(); err != nil {
		return err
	}
	return n.server.Close()
}

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, t.TempDir()) })
}

func TestReopen(t *testing.T) {
	dir := t.TempDir()
	storetest.RunReopen(t, func(t *testing.T) store.Store { return open(t, dir) })
}

func open(t *testing.T, dir string) node {
	t.Helper()
	n, err := tryOpen(t, dir, jetstream.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func tryOpen(t *testing.T, dir string, opts jetstream.Options) (node, error) {
	t.Helper()
	server, err := embednats.Start(embednats.Options{Dir: dir, Logger: opts.Logger})
	if err != nil {
		t.Fatal(err)
	}
	opts.Server, opts.Bucket = server, "test"
	s, err := jetstream.Open(t.Context(), opts)
	if err != nil {
		if closeErr := server.Close(); closeErr != nil {
			t.Fatal(closeErr)
		}
	}
	return node{s, server}, err
}

func TestReserve(t *testing.T) {
	var fs unix.Statfs_t
	check(t, unix.Statfs(t.TempDir(), &fs))
	free := int64(fs.Bavail) * fs.Bsize
	for _, c := range []struct {
		reserve     int64
		put, delete error
	}{{free / 2, nil, nil}, {2 * free, store.ErrFull, nil}, {math.MaxInt64, store.ErrFull, store.ErrFull}} {
		dir := t.TempDir()
		n := open(t, dir)
		_, err := n.Put(t.Context(), "k", nil, 0)
		check(t, err)
		check(t, n.Close())
		n, err = tryOpen(t, dir, jetstream.Options{Reserve: c.reserve})
		check(t, err)
		if _, err := n.Put(t.Context(), "k", nil, store.Any); !errors.Is(err, c.put) {
			t.Errorf("put with a reserve of %d: %v", c.reserve, err)
		}
		if _, err := n.Delete(t.Context(), "k", store.Any); !errors.Is(err, c.delete) {
			t.Errorf("delete with a reserve of %d: %v", c.reserve, err)
		}
		check(t, n.Close())
	}
}

// TestBucket reads the store as an ordinary KV bucket, and writes to it behind the store's back.
func TestBucket(t *testing.T) {
	dir := t.TempDir()
	n := open(t, dir)
	_, err := n.Put(t.Context(), "a.b", []byte("v"), 0)
	check(t, err)
	_, err = n.Put(t.Context(), "gone", nil, 0)
	check(t, err)
	_, err = n.Delete(t.Context(), "gone", store.Any)
	check(t, err)

	stream, err := js.New(n.server.Conn())
	check(t, err)
	kv, err := stream.KeyValue(t.Context(), "test")
	check(t, err)
	if entry, err := kv.Get(t.Context(), "a.b"); err != nil || string(entry.Value()) != "v" {
		t.Errorf("got %v, %v", entry, err)
	}
	if _, err := kv.Get(t.Context(), "gone"); !errors.Is(err, js.ErrKeyNotFound) {
		t.Errorf("got %v", err)
	}
	foreign, err := kv.Put(t.Context(), "a.b", []byte("foreign"))
	check(t, err)
	if _, err := n.Put(t.Context(), "other", nil, store.Any); !errors.Is(err, store.ErrConflict) {
		t.Errorf("the store did not notice: %v", err)
	}
	if _, err := n.Put(t.Context(), "a.b", nil, foreign); err != nil {
		t.Errorf("the store did not take it over: %v", err)
	}
	check(t, n.Close())
	check(t, open(t, dir).Close())
}

// TestSweep proves that deleted keys leave nothing behind, and that the store still knows all that it must.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	n := open(t, dir)
	const keys = 1500
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			key := fmt.Sprintf("k.%d", i)
			revision, err := n.Put(t.Context(), key, nil, 0)
			if err == nil {
				_, err = n.Delete(t.Context(), key, revision)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	last, err := n.Put(t.Context(), "k.0", nil, 0)
	check(t, err)
	conn, err := js.New(n.server.Conn())
	check(t, err)
	stream, err := conn.Stream(t.Context(), "KV_test")
	check(t, err)
	for end := time.Now().Add(time.Minute); stream.CachedInfo().State.Msgs > keys/2; { // they go while writes go on
		if time.Now().After(end) {
			t.Fatalf("%d messages for one key", stream.CachedInfo().State.Msgs)
		}
		_, err := stream.Info(t.Context())
		check(t, err)
	}
	check(t, n.Close())
	n = open(t, dir)
	if next, err := n.Put(t.Context(), "k.0", nil, last); err != nil || next <= last {
		t.Errorf("revision %d after %d: %v", next, last, err)
	}
	check(t, n.Close())
}
