package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"lambent"
	"lambent/control"
	"lambent/internal/embednats"
	"lambent/store"
	"lambent/store/jetstream"
	"lambent/test/measure"
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
	template, err := deployOne(ctx, filepath.Join(dir, "template"))
	if err != nil {
		return err
	}
	rep := measure.NewReport("scale")
	rep.Row("functions", "restart to first answer", "RSS MB", "warm p50 us")
	nodes := map[int]*measure.Daemon{}
	sizes := []int{few, many}
	var rss [2]float64
	var first [2]time.Duration
	for i, n := range sizes {
		data := filepath.Join(dir, fmt.Sprint(n))
		if err := os.CopyFS(data, os.DirFS(template.data)); err != nil {
			return err
		}
		for _, key := range []string{"admin.key", "secret.key"} { // CopyFS lets others read what it writes
			if err := os.Chmod(filepath.Join(data, key), 0o600); err != nil {
				return err
			}
		}
		began := time.Now()
		if err := register(ctx, data, template.function, n); err != nil {
			return err
		}
		rep.Notes[fmt.Sprintf("registering %d", n)] = fmt.Sprintf("%.1f s", time.Since(began).Seconds())
		l, err := measure.Start(ctx, data)
		if err != nil {
			return err
		}
		nodes[i] = l
		defer func() { err = errors.Join(err, l.Stop()) }()
		if err := once(ctx, function(l, fmt.Sprintf("f%d", n-1), []byte("hello"))); err != nil {
			return err
		}
		first[i] = time.Since(l.Started)
		// What was needed to start is given back after a while; what stays is what counts.
		time.Sleep(20 * time.Second)
		bytes, err := l.RSS()
		if err != nil {
			return err
		}
		rss[i] = float64(bytes)
	}
	var p50 [2][]float64
	for range 9 {
		for i, n := range sizes {
			r, err := load(ctx, function(nodes[i], fmt.Sprintf("f%d", n/2), []byte("hello")), 1, 500*time.Millisecond)
			if err != nil {
				return err
			}
			p50[i] = append(p50[i], us(r.quantile(0.5)))
		}
	}
	for i, n := range sizes {
		rep.Row(fmt.Sprint(n), fmt.Sprintf("%.2f s", first[i].Seconds()), fmt.Sprintf("%.1f", rss[i]/(1<<20)), fmt.Sprintf("%.0f", measure.Median(p50[i])))
	}
	rep.AtMost("scale_rss_per_function", (rss[1]-rss[0])/float64(many-few), "B", 4096)
	rep.AtMost("scale_lookup_ratio", measure.Median(p50[1])/measure.Median(p50[0]), "x", 1.1)
	rep.AtMost("scale_restart_to_first_answer", first[1].Seconds(), "s", 3)
	return rep.Finish()
}

// deployed is the data folder of a daemon that has run, and the function in it.
type deployed struct {
	data     string
	function *lambent.Function
}

// deployOne deploys a function to a new daemon, and stops it.
func deployOne(ctx context.Context, data string) (d deployed, err error) {
	l, err := measure.Start(ctx, data)
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, l.Stop()) }()
	if err := l.Deploy(ctx, "test/bench/echo", "--name", "f0"); err != nil {
		return d, err
	}
	f, err := l.Client.Function(ctx, "default", "f0")
	return deployed{data, f}, err
}

// register writes functions up to f<n-1>, like template, into the store of a daemon that is not running.
func register(ctx context.Context, data string, template *lambent.Function, n int) (err error) {
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
			for i := w; i < n && errs[w] == nil; i += writers {
				errs[w] = registerOne(ctx, s, template, fmt.Sprintf("f%d", i))
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func registerOne(ctx context.Context, s store.Store, template *lambent.Function, name string) error {
	t := template.Latest
	rev := lambent.NewRevision(t.Namespace, name, t.Settings, t.Code, t.Root, t.Created)
	f := &lambent.Function{Namespace: t.Namespace, Name: name, Created: t.Created, Updated: t.Created, Latest: rev}
	for key, value := range control.Entries(f) {
		if _, err := s.Put(ctx, key, value, store.Any); err != nil {
			return err
		}
	}
	return nil
}
