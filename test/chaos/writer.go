package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"lambent"
	"lambent/client"
)

// writer changes resources all the time and remembers what was acknowledged.
type writer struct {
	client *client.Client
	code   string // digest of a bundle for static functions

	turn    sync.Mutex       // held while one is written, or all are looked at
	mu      sync.Mutex       // guards what follows
	values  map[string][]int // by resource, what it may be: the last acknowledged value, and those whose fate nobody told
	acked   int
	refused map[lambent.Code]int
	unclear []string    // errors that tell no reason
	times   []time.Time // of the acknowledgements
}

// names is how many resources of each kind there are.
const names = 15

func newWriter(ctx context.Context, c *client.Client) (*writer, error) {
	archive, err := bundle("index.html", []byte("hello"), "0")
	if err != nil {
		return nil, err
	}
	code, err := c.Upload(ctx, bytes.NewReader(archive), nil)
	return &writer{client: c, code: code.Digest, values: map[string][]int{}, refused: map[lambent.Code]int{}}, err
}

// run writes until ctx ends.
func (w *writer) run(ctx context.Context) {
	for i := 1; ctx.Err() == nil; i++ {
		w.one(ctx, i)
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (w *writer) one(ctx context.Context, value int) {
	w.turn.Lock()
	defer w.turn.Unlock()
	kind := []string{"alias", "function", "secret"}[value%3]
	resource := fmt.Sprintf("%s-%d", kind, value/3%names)
	// A write is not cut short by the end of the scenario, so that its fate is known.
	bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	stored, err := w.set(bound, kind, resource, value)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch told := lambent.ErrorOf(err); {
	case err == nil:
		w.values[resource] = []int{stored}
		w.acked++
		w.times = append(w.times, time.Now())
		return
	case told.Code != lambent.CodeStorageFull:
		if w.values[resource] == nil {
			w.values[resource] = []int{0} // it may still be missing
		}
		w.values[resource] = append(w.values[resource], max(stored, w.values[resource][0]+1))
		w.unclear = append(w.unclear, fmt.Sprintf("%s: %v", resource, err))
	}
	w.refused[lambent.ErrorOf(err).Code]++
}

// set writes a resource and gives what it is then: that of a secret counts its values, nothing gives them back.
func (w *writer) set(ctx context.Context, kind, name string, value int) (stored int, err error) {
	switch kind {
	case "alias":
		_, err = w.client.SetAlias(ctx, client.SetAlias{Namespace: lambent.DefaultNamespace, Function: "server", Name: name,
			Targets: []lambent.Weight{{Revision: "1", Weight: value%1000 + 1}, {Revision: "2", Weight: value/1000 + 1}}})
	case "function":
		_, err = w.client.Deploy(ctx, client.Deploy{Namespace: lambent.DefaultNamespace, Name: name, Code: w.code,
			Settings: lambent.Settings{Runtime: "static", Handler: ".", Queue: value}})
	case "secret":
		secret, err := w.client.SetSecret(ctx, lambent.DefaultNamespace, name, strings.NewReader(strconv.Itoa(value)))
		if err != nil {
			return 0, err
		}
		return int(secret.Version), nil
	}
	return value, err
}

// missing tells which acknowledged writes are not there.
func (w *writer) missing(ctx context.Context) (missing []string, err error) {
	w.turn.Lock()
	defer w.turn.Unlock()
	secrets, err := w.client.Secrets(ctx, lambent.DefaultNamespace)
	if err != nil {
		return nil, err
	}
	versions := map[string]int{}
	for _, s := range secrets {
		versions[s.Name] = int(s.Version)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for resource, may := range w.values {
		value, secret := versions[resource]
		if !secret {
			if value, err = w.get(ctx, resource); err != nil {
				return nil, err
			}
		}
		if !slices.Contains(may, value) {
			missing = append(missing, fmt.Sprintf("%s is %d, not %v", resource, value, may))
		}
	}
	return missing, nil
}

// get gives the value of an alias or a function, 0 when there is none.
func (w *writer) get(ctx context.Context, resource string) (value int, err error) {
	switch kind, _, _ := strings.Cut(resource, "-"); kind {
	case "alias":
		a, err := w.client.Alias(ctx, lambent.DefaultNamespace, "server", resource)
		if err != nil {
			return 0, absent(err)
		}
		return a.Targets[0].Weight - 1 + (a.Targets[1].Weight-1)*1000, nil
	case "function":
		f, err := w.client.Function(ctx, lambent.DefaultNamespace, resource)
		if err != nil {
			return 0, absent(err)
		}
		return f.Latest.Settings.Queue, nil
	}
	return 0, nil
}

// absent is err, unless that says that there is no such resource.
func absent(err error) error {
	if e := lambent.ErrorOf(err); e != nil && e.Status() == 404 {
		return nil
	}
	return err
}

// after is how long after t the next write was acknowledged, 0 for never.
func (w *writer) after(t time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, acked := range w.times {
		if acked.After(t) {
			return acked.Sub(t)
		}
	}
	return 0
}

// remove deletes all that it has made but aliases, which go with their function.
func (w *writer) remove(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs []error
	for resource := range w.values {
		switch kind, _, _ := strings.Cut(resource, "-"); kind {
		case "function":
			errs = append(errs, absent(w.client.Delete(ctx, lambent.DefaultNamespace, resource, 0)))
		case "secret":
			errs = append(errs, absent(w.client.DeleteSecret(ctx, lambent.DefaultNamespace, resource)))
		}
	}
	return errors.Join(errs...)
}
