//go:build wasip1

// Command echo answers "ok".
package main

import (
	"sync/atomic"

	"echo/lambent"
)

var (
	variant atomic.Uint32 // of the module: see wasm_module.go
	served  int
)

func init() {
	lambent.Handle(func(w *lambent.ResponseWriter, _ *lambent.Request) {
		variant.Store(0x1badcafe)
		if served++; served > 1 {
			w.WriteHeader(418) // this instance is not pristine
			return
		}
		w.Header.Set("Content-Type", "text/plain")
		w.WriteString("ok\n")
	})
}

func main() {}
