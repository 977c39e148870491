package abi

import (
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
)

// BenchmarkRequest is a request to an instance that is kept, without the reset between them: the guest and its host
// functions.
func BenchmarkRequest(b *testing.B) {
	for _, f := range fixtures {
		if f.kind != Reactor && !strings.HasPrefix(f.name, "C ") {
			continue // a second run of _start finds the heap of the first, which only C does not mind
		}
		g := f.compile(b)
		rt, err := host()
		if err != nil {
			b.Fatal(err)
		}
		instance, err := rt.InstantiateModule(b.Context(), g.compiled, wazero.NewModuleConfig().WithName("").WithStartFunctions())
		if err != nil {
			b.Fatal(err)
		}
		if init := instance.ExportedFunction(Initialize); init != nil && g.kind == Reactor {
			if _, err := init.Call(With(b.Context(), &Call{Kind: g.kind})); err != nil {
				b.Fatal(err)
			}
		}
		entry := instance.ExportedFunction(g.kind.Entry())
		for _, target := range []string{"/hello", "/echo?a=b"} {
			b.Run(strings.ReplaceAll(f.name, " ", "-")+target, func(b *testing.B) {
				b.ReportAllocs()
				body := strings.NewReader(`{"a":"payload of forty-two bytes, no more"}`)
				header := post("").Header
				for range 10 {
					header = append(header, Field{Name: "X-Some-Header", Value: "some value of a usual length"})
				}
				for b.Loop() {
					_, _ = body.Seek(0, 0)
					c := &Call{Kind: g.kind, Method: "POST", Target: target, Host: "example.com", Proto: "HTTP/1.1", Length: int64(body.Len()), Header: header,
						Body: there{body}, Respond: func(int, []Field, int64) error { return nil }, Write: func(p []byte) (int, error) { return len(p), nil }}
					_, err := entry.Call(With(b.Context(), c))
					if err := c.Finish(err); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkHostCall is one call of a function of the host out of a guest that does nothing else.
func BenchmarkHostCall(b *testing.B) {
	for _, name := range []string{"lambent_v1.time", "lambent_v1.write", "wasi_snapshot_preview1.fd_write", "wasi_snapshot_preview1.clock_time_get"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			module, function, _ := strings.Cut(name, ".")
			g := compile(b, loop(module, function))
			rt, err := host()
			if err != nil {
				b.Fatal(err)
			}
			instance, err := rt.InstantiateModule(b.Context(), g.compiled, wazero.NewModuleConfig().WithName("").WithStartFunctions())
			if err != nil {
				b.Fatal(err)
			}
			c := &Call{Kind: g.kind, Method: "GET", Respond: func(int, []Field, int64) error { return nil }, Write: func(p []byte) (int, error) { return len(p), nil }}
			entry, ctx := instance.ExportedFunction(g.kind.Entry()), With(b.Context(), c)
			b.ResetTimer()
			for n := 0; n < b.N; n += loops {
				if _, err := entry.Call(ctx); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
