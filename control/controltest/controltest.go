// Package controltest serves the control API over a store in memory and engines made of functions, for tests
// of the API and of what speaks to it.
package controltest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"lambent"
	"lambent/auth/apikey"
	"lambent/control"
	"lambent/secret"
	"lambent/store"
	"lambent/store/memory"
)

// Key is the admin key of every World.
const Key = "lk_test"

// World is a served API. Its engines are fields; set them before the requests that need them.
type World struct {
	URL     string
	Store   store.Store
	Code    control.Code
	Removed []string // NAMESPACE/NAME of what Logs.Remove was called for

	Build   func(context.Context, string, lambent.Build, func(string)) (*lambent.Built, error) // by default nothing is to build
	Ready   func(context.Context, *lambent.Revision) (lambent.Phases, error)                   // by default ready in 12 ms of boot
	Invoke  func(context.Context, *lambent.Invocation) (*lambent.Response, error)
	Lines   func(context.Context, control.LogQuery) iter.Seq2[lambent.LogLine, error]
	Events  func(context.Context, control.EventQuery) iter.Seq2[lambent.SystemEvent, error] // by default none
	Records []lambent.Record                                                                // the latest first

	abandoned sync.Map // ids of revisions

	Circuit   *lambent.Error                               // of every revision
	Keys      map[string]lambent.Principal                 // by their text; those made by the API are taken, too
	Changed   func(namespace, name string, code ...string) // by default nobody is told
	Refreshed []string                                     // NAMESPACE/NAME of the functions whose latest was to be refreshed

	log log

	Endpoint string // what the API says where functions are
	Findings []lambent.Finding
}

// Abandoned tells whether the revision of that id was abandoned.
func (w *World) Abandoned(id string) bool {
	_, ok := w.abandoned.Load(id)
	return ok
}

// New serves a World until the test ends.
func New(t *testing.T) *World {
	w := &World{Store: memory.New(), Code: &codeMap{m: map[string]*code{}}, Endpoint: "http://127.0.0.1:8080"}
	w.Keys = map[string]lambent.Principal{Key: {Name: "admin", Role: lambent.RoleAdmin}}
	w.Findings = []lambent.Finding{{Name: "isolation", OK: true, Detail: "userns"}, {Name: "seccomp", OK: true, Detail: "filter loaded"}}
	w.Build = func(_ context.Context, _ string, b lambent.Build, _ func(string)) (*lambent.Built, error) {
		return &lambent.Built{Code: b.Source, Cached: true}, nil
	}
	w.Events = func(context.Context, control.EventQuery) iter.Seq2[lambent.SystemEvent, error] {
		return func(func(lambent.SystemEvent, error) bool) {}
	}
	w.Changed = func(string, string, ...string) {}
	w.Ready = func(context.Context, *lambent.Revision) (lambent.Phases, error) {
		return lambent.Phases{lambent.PhaseBoot: 12e6}, nil
	}
	vault, err := secret.Open(t.Context(), secret.Options{KeyFile: filepath.Join(t.TempDir(), "secret.key"), Store: w.Store})
	if err != nil {
		t.Fatal(err)
	}
	handler := control.New(control.Options{
		Version: "test", Store: w.Store, Functions: view{w.Store}, Code: w.Code, Executor: runtimes{},
		Build: func(ctx context.Context, namespace string, b lambent.Build, log func(string)) (*lambent.Built, error) {
			return w.Build(ctx, namespace, b, log)
		},
		Ready:   func(ctx context.Context, r *lambent.Revision) (lambent.Phases, error) { return w.Ready(ctx, r) },
		Abandon: func(r *lambent.Revision) { w.abandoned.Store(r.ID, true) },
		Applied: func(ctx context.Context, key string, revision uint64) error {
			e, err := w.Store.Get(ctx, key)
			deleted := errors.Is(err, store.ErrNotFound)
			if revision == 0 || !deleted && (err != nil || e.Revision < revision) {
				t.Errorf("Applied(%s, %d), the store is at %d, %v", key, revision, e.Revision, err)
			}
			return ctx.Err()
		},
		Invoker: invoker(func(ctx context.Context, inv *lambent.Invocation) (*lambent.Response, error) {
			return w.Invoke(ctx, inv)
		}),
		Records:  records{w},
		Logs:     logs{w},
		Events:   events{w},
		Findings: func() []lambent.Finding { return w.Findings },
		Public:   true,
		Endpoint: func() string { return w.Endpoint },
		Authenticate: func(r *http.Request) (lambent.Principal, bool) {
			text := control.Bearer(r)
			if who, ok := w.Keys[text]; ok {
				return who, true
			}
			return w.stored(text)
		},
		MakeKey: apikey.New,
		Secrets: vault,
		Refresh: func(stale func(*lambent.Revision) bool) {
			functions := view{w.Store}
			for namespace, name := range functions.Names() {
				if f, ok := functions.Lookup(namespace, name); ok && stale(f.Latest) {
					w.Refreshed = append(w.Refreshed, namespace+"/"+name)
				}
			}
		},
		Changed: func(namespace, name string, code ...string) { w.Changed(namespace, name, code...) },
		Circuit: func(*lambent.Revision) *lambent.Error { return w.Circuit },
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "up 1\n") }),
		Logger:  slog.New(slog.NewTextHandler(&w.log, nil)),
	})
	s := httptest.NewServer(handler)
	t.Cleanup(func() {
		s.Close()
		if err := w.Store.Close(); err != nil {
			t.Error(err)
		}
	})
	w.URL = s.URL
	return w
}

// stored finds a key that the API has made.
func (w *World) stored(text string) (lambent.Principal, bool) {
	sum := sha256.Sum256([]byte(text))
	for e, err := range w.Store.List(context.Background(), control.KeyPrefix) {
		if err != nil {
			return lambent.Principal{}, false
		}
		if k, stored, err := control.DecodeKey(e); err == nil && stored == sum {
			return k.Principal(), true
		}
	}
	return lambent.Principal{}, false
}

// Log is what the API has logged so far.
func (w *World) Log() string {
	w.log.mu.Lock()
	defer w.log.mu.Unlock()
	return w.log.text.String()
}

type log struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

type records struct{ w *World }

func (l records) Get(id string) (lambent.Record, bool) {
	for _, r := range l.w.Records {
		if r.ID == id {
			return r, true
		}
	}
	return lambent.Record{}, false
}

func (l records) List(namespace, function string, limit int) (out []lambent.Record) {
	for _, r := range l.w.Records {
		if len(out) < limit && (namespace == "" || r.Namespace == namespace) && (function == "" || r.Function == function) {
			out = append(out, r)
		}
	}
	return out
}

type logs struct{ w *World }

func (l logs) Read(ctx context.Context, q control.LogQuery) iter.Seq2[lambent.LogLine, error] {
	return l.w.Lines(ctx, q)
}

func (l logs) Remove(namespace, function string) error {
	l.w.Removed = append(l.w.Removed, namespace+"/"+function)
	return nil
}

type events struct{ w *World }

func (e events) Read(ctx context.Context, q control.EventQuery) iter.Seq2[lambent.SystemEvent, error] {
	return e.w.Events(ctx, q)
}

type invoker func(context.Context, *lambent.Invocation) (*lambent.Response, error)

func (f invoker) Invoke(ctx context.Context, inv *lambent.Invocation) (*lambent.Response, error) {
	return f(ctx, inv)
}

// codeMap keeps what it gets, whether it is a tar or not. It is a [control.CodeGarbage], too.
type codeMap struct {
	mu sync.Mutex
	m  map[string]*code
}

type code struct {
	content []byte
	holders int
	used    time.Time
}

func (c *codeMap) Put(_ context.Context, r io.Reader) (string, int64, error) {
	raw, err := io.ReadAll(r)
	if err != nil {
		return "", 0, err
	}
	if bytes.HasPrefix(raw, []byte("garbage")) {
		return "", 0, lambent.Errorf(lambent.CodeBundleInvalid, "neither tar nor zip")
	}
	sum := sha256.Sum256(raw)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m[digest] == nil {
		c.m[digest] = &code{content: raw}
	}
	c.m[digest].used = time.Now()
	return digest, int64(len(raw)), nil
}

func (c *codeMap) Has(digest string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.m[digest] != nil
}

func (c *codeMap) Hold(digest string) (release func(), ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	held := c.m[digest]
	if held == nil {
		return nil, false
	}
	held.holders++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		held.holders--
		held.used = time.Now()
	}, true
}

func (c *codeMap) Unused(since time.Time) (digests []string, _ error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for digest, kept := range c.m {
		if kept.used.Before(since) {
			digests = append(digests, digest)
		}
	}
	return digests, nil
}

func (c *codeMap) Remove(digest string, since time.Time) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if kept := c.m[digest]; kept == nil || kept.holders > 0 || !kept.used.Before(since) {
		return false, nil
	}
	delete(c.m, digest)
	return true, nil
}

func (c *codeMap) Open(digest string) (io.ReadCloser, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if kept := c.m[digest]; kept != nil {
		return io.NopCloser(bytes.NewReader(kept.content)), nil
	}
	return nil, lambent.Errorf(lambent.CodeCodeUnavailable, "%s is missing", digest)
}

type runtimes struct{}

func (runtimes) Runtimes() []string {
	return []string{"go", "python3.9", "python3.11", "nodejs18", "nodejs20", "static"}
}

// Isolation is what a node without root has.
func (runtimes) Isolation(string) lambent.Isolation {
	return lambent.Isolation{Level: lambent.IsolationUserns, Lacks: []string{"users of their own"}}
}

func (runtimes) Root(runtime string) (string, error) {
	if runtime == "python3.12" {
		return "", lambent.Errorf(lambent.CodeTierUnavailable, "python3.12 is not installed")
	}
	return "debian-12", nil
}

// Functions gives the functions that the store holds.
func (w *World) Functions() control.Functions { return view{w.Store} }

// view looks at the store each time.
type view struct{ store store.Store }

func (v view) Lookup(namespace, name string) (*lambent.Function, bool) {
	e, err := v.store.Get(context.Background(), control.FunctionPrefix+namespace+"."+name)
	if err != nil {
		return nil, false
	}
	f, err := control.DecodeFunction(e)
	return f, err == nil
}

func (v view) Alias(namespace, name, alias string) (*lambent.Alias, bool) {
	if _, ok := v.Lookup(namespace, name); !ok {
		return nil, false
	}
	e, err := v.store.Get(context.Background(), control.AliasPrefix+namespace+"."+name+"."+alias)
	if err != nil {
		return nil, false
	}
	a, err := control.DecodeAlias(e)
	return a, err == nil
}

func (v view) Names() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for e, err := range v.store.List(context.Background(), control.FunctionPrefix) {
			namespace, name, ok := control.FunctionName(e.Key)
			if err != nil || !ok || !yield(namespace, name) {
				return
			}
		}
	}
}
