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
	client  *client.Client
	code    string      // digest of a bundle for static functions
	patient func() bool // whether the daemon may be killed, so that no answer comes

	mu      sync.Mutex       // held while a resource is written, or all are read; guards what follows
	values  map[string][]int // by resource, what it may be: the last acknowledged value, and those whose fate nobody told
	acked   []time.Time
	refused int // for the lack of room
	unknown int // with no answer, while patient
	failed  []string
	missing []string // acknowledged, but not there
}

// names is how many resources of each kind there are.
const names = 15

func newWriter(ctx context.Context, c *client.Client, patient func() bool) (*writer, error) {
	archive, err := bundle("index.html", []byte("hello"), "0")
	if err != nil {
		return nil, err
	}
	code, err := c.Upload(ctx, bytes.NewReader(archive), nil)
	return &writer{client: c, code: code.Digest, values: map[string][]int{}, patient: patient}, err
}

// written runs play while a writer works. Every acknowledged write has to be there in the end, and none may fail but
// for the lack of room.
func (s *stage) written(ctx context.Context, play func(w *writer) error) error {
	w, err := newWriter(ctx, s.daemon.Client, s.load.patient.Load)
	if err != nil {
		return err
	}
	writing, stop := context.WithTimeout(ctx, s.length)
	defer stop()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		w.run(writing)
	}()
	err = play(w)
	<-stopped
	if err = errors.Join(err, w.check(ctx)); err != nil {
		return err
	}
	s.report.Notes["writer"] = fmt.Sprintf("%d acknowledged, %d refused for the lack of room, %d without an answer", len(w.acked), w.refused, w.unknown)
	for i, what := range slices.Concat(w.failed, w.missing)[:min(maxExamples, len(w.failed)+len(w.missing))] {
		s.report.Notes["writer "+strconv.Itoa(i+1)] = what
	}
	s.none("writes_missing", len(w.missing))
	s.none("writes_failed", len(w.failed))
	return w.remove(ctx)
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
	kind := []string{"alias", "function", "secret"}[value%3]
	resource := fmt.Sprintf("%s-%d", kind, value/3%names)
	// A write is not cut short by the end of the scenario, so that its fate is known.
	bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	w.mu.Lock()
	defer w.mu.Unlock()
	stored, err := w.set(bound, kind, resource, value)
	told := lambent.ErrorOf(err)
	switch {
	case err == nil:
		w.values[resource] = []int{stored}
		w.acked = append(w.acked, time.Now())
	case told.Code == lambent.CodeStorageFull:
		w.refused++
	case w.patient() && told.Code == lambent.CodeInternal && strings.HasPrefix(told.Message, "cannot reach"):
		w.unknown++
		if w.values[resource] == nil {
			w.values[resource] = []int{0} // it may still be missing
		}
		if stored == 0 { // the next version of a secret
			stored = slices.Max(w.values[resource]) + 1
		}
		w.values[resource] = append(w.values[resource], stored)
	default:
		w.failed = append(w.failed, fmt.Sprintf("%s: %v", resource, err))
	}
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
		var secret *lambent.Secret
		secret, err = w.client.SetSecret(ctx, lambent.DefaultNamespace, name, strings.NewReader(strconv.Itoa(value)))
		return int(secret.Version), err
	}
	return value, err
}

// check looks whether what was acknowledged is there.
func (w *writer) check(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	secrets, err := w.client.Secrets(ctx, lambent.DefaultNamespace)
	if err != nil {
		return err
	}
	versions := map[string]int{}
	for _, s := range secrets {
		versions[s.Name] = int(s.Version)
	}
	for resource, may := range w.values {
		value, secret := versions[resource]
		if !secret {
			if value, err = w.get(ctx, resource); err != nil {
				return err
			}
		}
		if !slices.Contains(may, value) {
			w.missing = append(w.missing, fmt.Sprintf("%s is %d, not %v", resource, value, may))
		}
	}
	return nil
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
	for _, acked := range w.acked {
		if acked.After(t) {
			return acked.Sub(t)
		}
	}
	return 0
}

// remove deletes all that it has made but aliases, which go with their function.
func (w *writer) remove(ctx context.Context) error {
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
