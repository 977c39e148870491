package jetstream_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"lambent/store"
	"lambent/store/jetstream"
	"lambent/test/fault"
)

// Somebody else fills the disk to the last byte while the store writes, again and again, and nothing keeps the store
// from running into it. What it has acknowledged stays, and when there is room again it goes on by itself.
func TestDiskFullUnderWrites(t *testing.T) {
	if !fault.Namespace(t) {
		return
	}
	disk, err := fault.MountDisk(t.TempDir(), 64<<20)
	check(t, err)
	t.Cleanup(func() { check(t, disk.Close()) })
	n, err := tryOpen(t, disk.Dir, jetstream.Options{Logger: slog.New(slog.DiscardHandler), Reserve: -1})
	check(t, err)

	const writers = 8
	var ok, full atomic.Int64
	var running sync.WaitGroup
	acked := make([]map[string]uint64, writers) // the last acknowledged revision of each key; 0 where it is not known whether a delete was done
	stop := make(chan struct{})
	for w := range writers {
		acked[w] = map[string]uint64{}
		running.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				key := fmt.Sprintf("k.%d.%d", w, i%10)
				revision, err := n.Put(t.Context(), key, make([]byte, 2000), store.Any)
				switch {
				case err == nil:
					acked[w][key] = revision
					ok.Add(1)
				case errors.Is(err, syscall.ENOSPC), errors.Is(err, store.ErrFull), strings.Contains(err.Error(), "waits for its disk"):
					full.Add(1)
				default:
					t.Errorf("put: %v", err)
					return
				}
			}
		})
	}
	for round := range 3 {
		before := full.Load()
		check(t, disk.Fill(0))
		await(t, "a write that fails", func() bool { return full.Load() > before })
		if _, err := n.Get(t.Context(), "k.0.0"); err != nil && !errors.Is(err, store.ErrNotFound) {
			t.Errorf("round %d: nothing can be read from a full disk: %v", round, err)
		}
		check(t, disk.Free())
		before = ok.Load()
		await(t, "writes that succeed again", func() bool { return ok.Load() > before+100 })
	}
	close(stop)
	running.Wait()
	last := map[string]uint64{}
	for e, err := range n.List(t.Context(), "") {
		check(t, err)
		last[e.Key] = e.Revision
	}
	check(t, n.Close())
	n = open(t, disk.Dir)
	for w := range writers {
		for key, revision := range acked[w] {
			e, err := n.Get(t.Context(), key)
			if err != nil || e.Revision < revision || e.Revision != last[key] {
				t.Errorf("%s was acknowledged at %d, is at %d: %v", key, revision, e.Revision, err)
			}
		}
	}
	check(t, n.Close())
	t.Logf("%d writes, %d refused", ok.Load(), full.Load())
}

// A crash between the stream and the watermark is mended on a full disk, too.
func TestOpenAfterCrashOnFullDisk(t *testing.T) {
	opts := jetstream.Options{Logger: slog.New(slog.DiscardHandler), Reserve: -1}
	if dir := os.Getenv(writerEnv); dir != "" {
		n, err := tryOpen(t, dir, opts)
		check(t, err)
		for range 50 { // it is killed at one of them
			_, err := n.Put(t.Context(), "k", nil, store.Any)
			check(t, err)
		}
		return
	}
	if !fault.Namespace(t) {
		return
	}
	disk, err := fault.MountDisk(t.TempDir(), 64<<20)
	check(t, err)
	t.Cleanup(func() { check(t, disk.Close()) })
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.timeout=2m")
	child.Env = append(os.Environ(), writerEnv+"="+disk.Dir)
	child.Stderr = os.Stderr
	var marks atomic.Int64
	p, err := fault.Start(t.Context(), child, disk.Dir, func(c *fault.Call) fault.Verdict {
		return fault.Verdict{Kill: c.Name == "pwrite64" && filepath.Ext(c.Path) == ".watermark" && marks.Add(1) == 20}
	})
	check(t, err)
	_ = child.Wait() // it is killed
	p.Wait()
	if !p.Killed() {
		t.Fatal("the writer ended by itself")
	}
	check(t, disk.Fill(0))
	var log bytes.Buffer
	opts.Logger = text(&log)
	n, err := tryOpen(t, disk.Dir, opts)
	check(t, err)
	if !strings.Contains(log.String(), "were not acknowledged") {
		t.Errorf("the stream was not ahead of the watermark: %s", &log)
	}
	check(t, n.Close())
}

// The disk fails a sync now and then and loses what it should have written. The writers are told, the store reads what
// is on the disk, and goes on; nothing that was acknowledged is lost by that.
func TestFailingSync(t *testing.T) {
	if dir := os.Getenv(writerEnv); dir != "" {
		writeForever(t, dir)
		return
	}
	dir := t.TempDir()
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFailingSync$", "-test.timeout=2m")
	child.Env = append(os.Environ(), writerEnv+"="+dir)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	check(t, err)
	var syncs, failed atomic.Int64
	p, err := fault.Start(t.Context(), child, dir, func(c *fault.Call) fault.Verdict {
		if c.Name != "fsync" || filepath.Ext(c.Path) != ".blk" || syncs.Add(1)%150 != 0 {
			return fault.Verdict{}
		}
		failed.Add(1)
		return fault.Verdict{Errno: syscall.EIO, Lose: true}
	})
	check(t, err)
	acked, refused := map[string]uint64{}, 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var key string
		var revision uint64
		if strings.HasPrefix(lines.Text(), "refused ") {
			refused++
		}
		if _, err := fmt.Sscanf(lines.Text(), "acked %s %d", &key, &revision); err == nil {
			acked[key] = max(acked[key], revision)
		}
		if failed.Load() >= 4 && syncs.Load()%150 >= 50 { // and writes have succeeded since
			check(t, child.Process.Kill())
			break
		}
	}
	if err := child.Wait(); err == nil || failed.Load() < 4 || refused == 0 {
		t.Fatalf("the writer ended with %v after %d failed syncs, %d writes refused", err, failed.Load(), refused)
	}
	p.Wait()
	n := open(t, dir)
	for key, revision := range acked {
		entry, err := n.Get(t.Context(), key)
		if err != nil || entry.Revision < revision {
			t.Errorf("%s was acknowledged at %d, found at %d: %v", key, revision, entry.Revision, err)
		}
	}
	check(t, n.Close())
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for range 2000 {
		if done() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("no %s within 20 s", what)
}
