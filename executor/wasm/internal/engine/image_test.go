package engine

import (
	"bytes"
	"sync"
	"testing"
)

// TestImagesAtOnce adds images from many goroutines: each keeps its content.
func TestImagesAtOnce(t *testing.T) {
	s, err := newStore(&budget{limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.file.Close()
	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			content := bytes.Repeat([]byte{byte(i + 1)}, wasmPage)
			for range 20 {
				im, err := s.add(bytes.NewReader(content), wasmPage)
				if err != nil {
					t.Error(err)
					return
				}
				got := make([]byte, wasmPage)
				if _, err := s.file.ReadAt(got, im.at); err != nil || !bytes.Equal(got, content) {
					t.Errorf("image %d is another one: %v", i, err)
				}
			}
		})
	}
	all.Wait()
}
