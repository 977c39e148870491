package jetstream_test

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lambent/internal/embednats"
	"lambent/store"
	"lambent/store/jetstream"
)

func benchStore(b *testing.B, dir string) node {
	server, err := embednats.Start(embednats.Options{Dir: dir})
	if err != nil {
		b.Fatal(err)
	}
	s, err := jetstream.Open(b.Context(), jetstream.Options{Server: server, Bucket: "bench"})
	if err != nil {
		b.Fatal(err)
	}
	return node{s, server}
}

// fillBench registers keys with so many writers and gives how long one write took in the middle.
func fillBench(b *testing.B, n node, writers, keys int) time.Duration {
	var next atomic.Int64
	took := make([]time.Duration, keys)
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			value := make([]byte, 500)
			for i := next.Add(1) - 1; i < int64(keys); i = next.Add(1) - 1 {
				begin := time.Now()
				if _, err := n.Put(b.Context(), fmt.Sprintf("fn.default.%d", i), value, store.Any); err != nil {
					b.Error(err)
				}
				took[i] = time.Since(begin)
			}
		})
	}
	wg.Wait()
	slices.Sort(took)
	return took[keys/2]
}

func BenchmarkPut(b *testing.B) {
	for _, writers := range []int{1, 8, 64} {
		b.Run(fmt.Sprint("writers=", writers), func(b *testing.B) {
			n := benchStore(b, b.TempDir())
			b.ResetTimer()
			p50 := fillBench(b, n, writers, b.N)
			b.StopTimer()
			b.ReportMetric(float64(p50.Microseconds()), "p50-us")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
			if err := n.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkRestart opens a store of 100,000 entries and watches until they are all there.
func BenchmarkRestart(b *testing.B) {
	dir := b.TempDir()
	n := benchStore(b, dir)
	fillBench(b, n, 256, 100_000)
	for b.Loop() {
		b.StopTimer()
		if err := n.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		n = benchStore(b, dir)
		opened := b.Elapsed()
		for event, err := range n.Watch(b.Context(), "") {
			if err != nil {
				b.Fatal(err)
			}
			if event.Synced {
				break
			}
		}
		b.ReportMetric((b.Elapsed() - opened).Seconds(), "watch-s")
	}
	if err := n.Close(); err != nil {
		b.Fatal(err)
	}
}
