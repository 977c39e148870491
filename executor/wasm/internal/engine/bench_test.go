package engine

import (
	"context"
	"testing"

	"lambent/executor/wasm/internal/abi"
)

// BenchmarkRun is a call of a guest, its reset included.
func BenchmarkRun(b *testing.B) {
	for _, guest := range []struct {
		name  string
		build func(testing.TB) []byte
	}{{"C", cGuest}, {"Go", goGuest}} {
		e := open(b, Options{})
		p := load(b, e, guest.build(b), 64<<20)
		b.Run(guest.name+"/one", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				benchCall(b, p)
			}
		})
		b.Run(guest.name+"/parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(8)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					benchCall(b, p)
				}
			})
		})
	}
}

func benchCall(b *testing.B, p *Program) {
	c := &abi.Call{
		Kind: p.kind, Method: "GET", Target: "/", Host: "test", Proto: "HTTP/1.1",
		Respond: func(int, []abi.Field, int64) error { return nil },
		Write:   func(b []byte) (int, error) { return len(b), nil },
		Log:     func(string, []byte) {},
	}
	p.Run(context.Background(), c, Limits{}, func(_ Usage, err error) {
		if err = c.Finish(err); err != nil {
			b.Error(err)
		}
	})
}
