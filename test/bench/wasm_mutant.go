package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"lambent"
	"lambent/test/measure"
)

// mutants deploys modules that no compiler has made, and calls those that are taken. What they do is their own affair, but
// the fault must be theirs, and neither the daemon nor, without a word, a worker may die of them.
func (b *tier) mutants(ctx context.Context) error {
	watch, err := b.watch()
	if err != nil {
		return err
	}
	n := pick(b, 10_000, 200)
	const deployers = 4
	var mu sync.Mutex
	taken, answered, strange := 0, 0, 0
	began := time.Now()
	var wg sync.WaitGroup
	for d := range deployers {
		wg.Go(func() {
			name := fmt.Sprintf("mutant-%d", d)
			for i := d; i < n; i += deployers {
				module := mutant(i, b.modules["c"], b.modules["rust"])
				deployed := b.deploy(ctx, "mutants", name, module, lambent.Settings{
					Memory: 16, Timeouts: lambent.Timeouts{Total: lambent.Duration(300 * time.Millisecond)},
				})
				status, err := 0, deployed
				if deployed == nil {
					status, err = b.status(ctx, "/fn/"+name+".mutants/")
				}
				mu.Lock()
				if deployed == nil {
					taken++
				}
				if status == http.StatusOK {
					answered++
				}
				if err != nil && lambent.ErrorOf(err).Fault == lambent.FaultPlatform || status == http.StatusInternalServerError {
					if strange++; strange <= 5 {
						b.rep.Notes[fmt.Sprintf("mutant %d", i)] = fmt.Sprintf("status %d, %v", status, err)
					}
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	silent, err := watch(ctx)
	if err != nil {
		return err
	}
	b.rep.Row("mutants", "taken", "answered", "each")
	b.rep.Row(fmt.Sprint(n), fmt.Sprint(taken), fmt.Sprint(answered), fmt.Sprintf("%.0f ms", measure.MS(time.Since(began))*deployers/float64(n)))
	b.rep.None("wasm_mutants_that_did_harm", strange)
	b.rep.None("wasm_silent_deaths_of_workers_by_mutants", silent)
	return nil
}

// status is that of an answer, whose body is read.
func (b *tier) status(ctx context.Context, path string) (int, error) {
	resp, err := b.ask(ctx, path)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	// A body that breaks off is the function's affair.
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, nil
}

// mutant gives the i-th module: one of modules with a few bytes changed, a part cut out or doubled, or random bytes.
func mutant(i int, modules ...[]byte) []byte {
	r := rand.New(rand.NewPCG(uint64(i), 5))
	m := slices.Clone(modules[i%len(modules)])
	from := 8 + r.IntN(len(m)-8)
	to := min(len(m), from+1+r.IntN(64))
	switch r.IntN(8) {
	case 0:
		return slices.Delete(m, from, to)
	case 1:
		return slices.Insert(m, to, m[from:to]...)
	case 2:
		m = m[:min(len(m), 8+r.IntN(256))] // its magic and version, and noise
		from = 8
		to = len(m)
		fallthrough
	case 3:
		for at := from; at < to; at++ {
			m[at] = byte(r.Uint32())
		}
	default:
		for range 1 + r.IntN(4) {
			m[8+r.IntN(len(m)-8)] ^= 1 << r.IntN(8)
		}
	}
	return m
}
