package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"lambent"
	"lambent/test/measure"
)

// first is what the first call of a function takes: in the process that it was deployed to, where its module is loaded,
// beside a warm call; and after a restart of the node, when its artefact comes from the disk. Each function has a module of its own.
func (b *tier) first(ctx context.Context) error {
	type function struct {
		name, language string
	}
	var functions []function
	n := pick(b, 20, 4)
	for i := range n {
		for _, lang := range wasmLanguages {
			if lang.first == 0 || lang.name == "go" && i >= (n+3)/4 { // one takes seconds to compile
				continue
			}
			module, err := variant(b.modules[lang.name], i)
			if err != nil {
				return fmt.Errorf("%s: %w", lang.name, err)
			}
			f := function{fmt.Sprintf("first-%s-%d", lang.name, i), lang.name}
			if err := b.deploy(ctx, lambent.DefaultNamespace, f.name, module, lambent.Settings{}); err != nil {
				return fmt.Errorf("%s: %w", f.name, err)
			}
			functions = append(functions, f)
		}
	}
	added, restarted := map[string][]float64{}, map[string][]float64{}
	for _, f := range functions {
		took, warm, err := b.firstCall(ctx, f.name)
		if err != nil {
			return err
		}
		added[f.language] = append(added[f.language], measure.MS(took-warm))
	}
	for range pick(b, 5, 2) {
		if err := b.Stop(); err != nil {
			return err
		}
		if err := b.Restart(ctx); err != nil {
			return err
		}
		for _, f := range functions {
			took, _, err := b.firstCall(ctx, f.name)
			if err != nil {
				return err
			}
			restarted[f.language] = append(restarted[f.language], measure.MS(took))
		}
	}
	b.rep.Row("first call", "functions", "above a warm one p50", "p99", "after a restart p50", "p99")
	for _, lang := range wasmLanguages {
		if lang.first == 0 {
			continue
		}
		a, r := added[lang.name], restarted[lang.name]
		b.rep.Row(lang.title, fmt.Sprint(len(a)), fmt.Sprintf("%.2f ms", measure.Median(a)), fmt.Sprintf("%.2f ms", measure.Quantile(a, 0.99)),
			fmt.Sprintf("%.2f ms", measure.Median(r)), fmt.Sprintf("%.2f ms", measure.Quantile(r, 0.99)))
		if lang.name != "go" {
			b.rep.AtMost("wasm_first_call_"+lang.name, measure.Median(a), "ms", 1)
		}
		b.rep.AtMost("wasm_first_call_after_restart_"+lang.name, measure.Median(r), "ms", lang.first)
	}
	return nil
}

// firstCall is how long a call takes that is the first one, and how long a warm one.
func (b *tier) firstCall(ctx context.Context, name string) (took, warm time.Duration, err error) {
	c, err := dial(ctx, get(name, b.Host, "/fn/noop/"), time.Now().Add(time.Minute))
	if err != nil {
		return 0, 0, err
	}
	defer c.close()
	if _, _, err := c.call(); err != nil { // the connection is there, and the gateway has run
		return 0, 0, err
	}
	c.request = get(name, b.Host, "/fn/"+name+"/").request
	var times []float64
	for i := range 11 {
		status, t, err := c.call()
		if err == nil && status != 200 {
			err = fmt.Errorf("%s: status %d", name, status)
		}
		if err != nil {
			return 0, 0, err
		}
		if i == 0 {
			took = t
		} else {
			times = append(times, float64(t))
		}
	}
	return took, time.Duration(measure.Median(times)), nil
}

// many is the memory of a node with very many deployed functions that have been called once, each with a module of its own.
func (b *tier) many(ctx context.Context) error {
	n, all := pick(b, 10_000, 200), 10_000
	before, err := b.pss()
	if err != nil {
		return err
	}
	began := time.Now()
	const deployers = 4
	errs := make(chan error, deployers)
	var wg sync.WaitGroup
	for d := range deployers {
		wg.Go(func() {
			for i := d; i < n; i += deployers {
				module, err := variant(b.modules["c"], 1000+i)
				if err == nil {
					err = b.deploy(ctx, lambent.DefaultNamespace, fmt.Sprintf("many-%d", i), module, lambent.Settings{})
				}
				if err != nil {
					errs <- fmt.Errorf("function %d: %w", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	if err := <-errs; err != nil {
		return err
	}
	deployed := time.Since(began)
	var took []float64
	for i := range n {
		name := fmt.Sprintf("many-%d", i)
		sent := time.Now()
		if err := once(ctx, get(name, b.Host, "/fn/"+name+"/")); err != nil {
			return err
		}
		took = append(took, measure.MS(time.Since(sent)))
	}
	after, err := b.pss()
	if err != nil {
		return err
	}
	b.rep.Row("functions", "deploy", "call once p50", "p99", "memory of gateway and workers", "of it before")
	b.rep.Row(fmt.Sprint(n), fmt.Sprintf("%.0f ms", measure.MS(deployed)/float64(n)), fmt.Sprintf("%.2f ms", measure.Median(took)),
		fmt.Sprintf("%.2f ms", measure.Quantile(took, 0.99)), fmt.Sprintf("%.0f MB", after), fmt.Sprintf("%.0f MB", before))
	if n < all {
		b.rep.AtMost("wasm_memory_extrapolated_to_10000", before+(after-before)*float64(all)/float64(n), "MB", 1000)
		return nil
	}
	b.rep.AtMost("wasm_memory_of_10000", after, "MB", 1000)
	return nil
}

// pss is the memory of the daemon and its workers in MB.
func (b *tier) pss() (float64, error) {
	tree, err := measure.Tree(b.PID())
	if err != nil {
		return 0, err
	}
	bytes, err := measure.PSS(tree...)
	return float64(bytes) / 1e6, err
}
