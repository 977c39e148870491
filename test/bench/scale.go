package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	words "lambent"
	"lambent/control"
	"lambent/internal/embednats"
	"lambent/store"
	"lambent/store/jetstream"
)

// scale measures a node with very many registered functions. They are written to its store as a deploy
// writes them, but without starting an instance of each.
func scale(ctx context.Context, short bool) (err error) {
	few, many := 100, 100_000
	if short {
		many = 20_000
	}
	dir, err := os.MkdirTemp("", "lambent-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	data := filepath.Join(dir, "data")
	l, err := up(ctx, data)
	if err != nil {
		return err
	}
	err = l.deploy(ctx, "test/bench/echo", "--name", "f0")
	var template *words.Function
	if err == nil {
		template, err = l.client.Function(ctx, "default", "f0")
	}
	if err = errors.Join(err, l.stop()); err != nil {
		return err
	}
	rep := newReport("scale")
	rep.row("functions", "restart to first answer", "RSS MB", "warm p50 us", "last function's answer")
	var rss, p50 [2]float64
	var first time.Duration
	for i, n := range []int{few, many} {
		began := time.Now()
		if err := register(ctx, data, template, i*few, n); err != nil {
			return err
		}
		rep.Notes[fmt.Sprintf("registering up to %d", n)] = fmt.Sprintf("%.1f s", time.Since(began).Seconds())
		l, err := up(ctx, data)
		if err != nil {
			return err
		}
		body := []byte("hello")
		err = once(ctx, l.function(fmt.Sprintf("f%d", n-1), body))
		first = time.Since(l.started)
		if err != nil {
			return errors.Join(err, l.stop())
		}
		// NATS gives the blocks that it read at the start back after a while; what stays is what counts.
		time.Sleep(15 * time.Second)
		bytes, err := l.rss()
		if err != nil {
			return errors.Join(err, l.stop())
		}
		r, err := load(ctx, l.function(fmt.Sprintf("f%d", n/2), body), 1, 3*time.Second)
		if err = errors.Join(err, l.stop()); err != nil {
			return err
		}
		rss[i], p50[i] = float64(bytes), us(r.quantile(0.5))
		rep.row(fmt.Sprint(n), fmt.Sprintf("%.2f s", first.Seconds()), fmt.Sprintf("%.1f", rss[i]/(1<<20)), fmt.Sprintf("%.0f", p50[i]), "200")
	}
	rep.atMost("scale_rss_per_function", (rss[1]-rss[0])/float64(many-few), "B", 4096)
	rep.atMost("scale_lookup_ratio", p50[1]/p50[0], "x", 1.25)
	rep.atMost("scale_restart_to_first_answer", first.Seconds(), "s", 3)
	return rep.finish()
}

// register writes functions f<from> to f<to-1>, like template, into the store of a daemon that is not running.
func register(ctx context.Context, data string, template *words.Function, from, to int) (err error) {
	srv, err := embednats.Start(embednats.Options{Dir: filepath.Join(data, "nats")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, srv.Close()) }()
	s, err := jetstream.Open(ctx, jetstream.Options{Server: srv, Bucket: "resources"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	const writers = 64
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := from + w; i < to && errs[w] == nil; i += writers {
				errs[w] = registerOne(ctx, s, template, fmt.Sprintf("f%d", i))
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func registerOne(ctx context.Context, s store.Store, template *words.Function, name string) error {
	t := template.Latest
	rev := words.NewRevision(t.Namespace, name, t.Settings, t.Code, t.Root, t.Created)
	f := words.Function{Namespace: t.Namespace, Name: name, Created: t.Created, Updated: t.Created, Latest: rev}
	for key, value := range map[string]any{
		"revision." + t.Namespace + "." + name + "." + rev.ID: rev,
		control.FunctionPrefix + t.Namespace + "." + name:     f,
	} {
		raw, err := json.Marshal(value)
		if err != nil {
			return err
		}
		if _, err := s.Put(ctx, key, raw, store.Any); err != nil {
			return err
		}
	}
	return nil
}
