package layer

import (
	"archive/tar"
	"bytes"
	"fmt"
	"log/slog"
	"sync"
	"testing"
)

// Who puts a layer gets it, however many others make room at that moment.
func TestPutWhileOthersEvict(t *testing.T) {
	s, err := Open(Options{Dir: t.TempDir(), Total: 1, Bytes: 1 << 20, Files: 10, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := w.WriteHeader(&tar.Header{Name: "x", Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 20 {
				l, err := s.Put(t.Context(), "default", fmt.Sprint(i, "-", j), bytes.NewReader(archive.Bytes()))
				if l == nil || err != nil {
					t.Errorf("got %v, %v", l, err)
					return
				}
				if f, err := l.Open(); err != nil {
					t.Error(err)
				} else {
					f.Close()
				}
				l.Release()
			}
		})
	}
	all.Wait()
}
