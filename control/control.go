// Package control is the REST API over the resources: functions and their revisions, code, logs,
// invocations. Its OpenAPI 3.1 document, at /v1/openapi.json, is generated from the handlers.
//
// Invariants, proved in control_test.go:
//   - Everything but /healthz needs a key: the check wraps the whole API, so a new route is closed.
//   - What declares no role (see needs) is for the node's admin key, and a key sees its own namespace only.
//   - Every error, also of the router and of validation, has the one format of [lambent.WriteError].
//   - A deploy that failed has changed nothing that serves; a deploy that returned is what serves next.
//   - Of two concurrent writes to one function or alias one wins and the other gets conflict.
//   - An alias refers to revisions of its function only, and to none that has not been ready.
package control

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"lambent"
	"lambent/store"
)

// Options is what the API stands on; every field is needed.
type Options struct {
	Version   string // of Lambent
	Store     store.Store
	Functions Functions
	Code      Code
	Executor  Runtimes
	// Build gives the code of a source of that namespace; log gets what the tools write; it does not block.
	Build func(ctx context.Context, namespace string, b lambent.Build, log func(line string)) (*lambent.Built, error)
	// Ready starts an instance of the revision and keeps it warm; the error says why it is not ready.
	Ready func(ctx context.Context, r *lambent.Revision) (lambent.Phases, error)
	// Abandon ends what Ready has begun for a revision that nothing came to refer to. It is called for others, too.
	Abandon func(r *lambent.Revision)
	// Applied returns when this node routes by what key holds at the store's revision: no request that is
	// sent after it returned meets what was there before.
	Applied  func(ctx context.Context, key string, revision uint64) error
	Invoker  lambent.Invoker
	Records  Records
	Logs     Logs
	Events   Events
	Findings func() []lambent.Finding
	Public   bool // whether the gateway serves functions that say no auth to everybody
	// Endpoint gives the URL of the functions listener.
	Endpoint func() string
	// Authenticate tells whose key a request carries; ok is false if it carries none that is valid.
	Authenticate func(*http.Request) (who lambent.Principal, ok bool)
	// MakeKey makes a random API key; sum is its SHA-256 hash.
	MakeKey func() (text string, sum [sha256.Size]byte)
	Secrets Secrets
	// Refresh returns when no request that comes afterwards meets an instance of the revisions that stale names,
	// unless it is started afterwards too.
	Refresh func(stale func(*lambent.Revision) bool)
	// Changed is told of functions whose references to revisions have changed, and of code that may not be referred to
	// any more; see [Collector].
	Changed func(namespace, name string, code ...string)
	// Circuit gives why a revision is not started any more, nil if it is.
	Circuit func(*lambent.Revision) *lambent.Error
	Metrics http.Handler
	Logger  *slog.Logger
}

// Functions is this node's view of the functions and their aliases, in memory.
type Functions interface {
	Lookup(namespace, name string) (*lambent.Function, bool)
	// Alias gives an alias of a function that is there, but for latest.
	Alias(namespace, name, alias string) (*lambent.Alias, bool)
	// Names gives the namespace and name of every function, in no order.
	Names() iter.Seq2[string, string]
}

// Code keeps bundles by digest.
type Code interface {
	Put(ctx context.Context, r io.Reader) (digest string, size int64, err error)
	Has(digest string) bool
	// Hold keeps a bundle from being removed until release, and for a while after; ok is false where there is none.
	Hold(digest string) (release func(), ok bool)
	// Open gives a bundle as the tar that it is kept as.
	Open(digest string) (io.ReadCloser, error)
}

// Runtimes tells what executors can run, and how; see executor.Executor.
type Runtimes interface {
	Isolation(tier string) lambent.Isolation
	Root(runtime string) (string, error)
	Runtimes() []string
}

// Records keeps the latest invocations.
type Records interface {
	Get(id string) (lambent.Record, bool)
	// List gives the latest first; an empty namespace or function means all.
	List(namespace, function string, limit int) []lambent.Record
}

// Logs keeps what functions write.
type Logs interface {
	Read(ctx context.Context, q LogQuery) iter.Seq2[lambent.LogLine, error]
	Remove(namespace, function string) error
}

// LogQuery says which lines of a function to read.
type LogQuery struct {
	Namespace, Function string
	Tail                int       // how many of the latest lines to begin with; negative for all
	Follow              bool      // go on with new lines until the context ends
	Invocation          string    // only lines of this invocation, unless ""
	Since               time.Time // only lines from then on, unless zero
}

type server struct {
	Options
	api     huma.API
	routing sync.Mutex   // held while a route is set: it must be told from all others
	naming  sync.RWMutex // held for reading while something that names secrets is stored, for writing while one is deleted
}

// New makes the handler of the control listener.
func New(o Options) http.Handler {
	operations := http.NewServeMux()
	s := &server{Options: o, api: humago.New(operations, config(o.Version))}
	s.api.UseMiddleware(s.authorize)
	s.functionRoutes()
	s.aliasRoutes()
	s.routeRoutes()
	s.codeRoutes()
	s.buildRoutes()
	s.invocationRoutes()
	s.systemRoutes()
	s.eventRoutes()
	s.keyRoutes()
	s.secretRoutes()

	spec, err := json.Marshal(s.api.OpenAPI())
	if err != nil {
		panic(err) // the document is made of our types alone
	}
	operations.HandleFunc("GET /v1/openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/openapi+json")
		_, _ = w.Write(spec)
	})
	node := http.NewServeMux()
	node.Handle("GET /metrics", o.Metrics)
	for path, handler := range map[string]http.HandlerFunc{
		"": pprof.Index, "profile": pprof.Profile, "trace": pprof.Trace, "symbol": pprof.Symbol, "cmdline": pprof.Cmdline,
	} {
		node.HandleFunc("GET /debug/pprof/"+path, handler)
	}

	outer := http.NewServeMux()
	outer.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok\n")
	})
	outer.Handle("/", s.authenticated(strict(operations)))
	outer.Handle("/metrics", s.authenticated(forNode(strict(node))))
	outer.Handle("/debug/", s.authenticated(forNode(strict(node))))
	return outer
}

func config(version string) huma.Config {
	c := huma.DefaultConfig("Lambent", version)
	c.Info.Description = "The control API of Lambent, a platform that runs functions."
	// The paths would be served without a lock around their caches, and the pages load scripts from elsewhere.
	c.OpenAPIPath, c.DocsPath, c.SchemasPath = "", "", ""
	c.CreateHooks = nil // they add a $schema link to every answer
	c.RejectUnknownQueryParameters = true
	jsonFormat := huma.Format{Marshal: huma.DefaultJSONFormat.Marshal, Unmarshal: unmarshal}
	c.Formats = map[string]huma.Format{"application/json": jsonFormat, "json": jsonFormat}
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{keyScheme: {Type: "http", Scheme: "bearer",
		Description: "A key. Operations name the least role that it takes in the namespace; those that name none take the node's admin key."}}
	c.Security = []map[string][]string{{keyScheme: {}}}
	c.Components.Schemas.RegisterTypeAlias(reflect.TypeFor[lambent.Phases](), reflect.TypeFor[map[string]float64]())
	return c
}

// Apart tells whether what r asks for takes nothing of the store: invocations, and what the node tells of itself.
func Apart(r *http.Request) bool {
	return !strings.HasPrefix(r.URL.Path, "/v1/") ||
		r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/v1/namespaces/") && strings.HasSuffix(r.URL.Path, "/invocations")
}

// strict answers in our error format where the mux has no route.
func strict(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		probe := refusal{header: http.Header{}}
		handler.ServeHTTP(&probe, r)
		if probe.status == http.StatusMethodNotAllowed {
			allow := probe.header.Get("Allow")
			w.Header().Set("Allow", allow)
			lambent.WriteError(w, lambent.Errorf(lambent.CodeMethodNotAllowed, "%s does not take %s", r.URL.Path, r.Method).
				WithHint("use %s", allow))
			return
		}
		lambent.WriteError(w, lambent.Errorf(lambent.CodeNotFound, "there is nothing at %s", r.URL.Path).
			WithHint("see /v1/openapi.json"))
	})
}

// refusal takes in how the mux says no.
type refusal struct {
	header http.Header
	status int
}

func (r *refusal) Header() http.Header         { return r.header }
func (r *refusal) Write(p []byte) (int, error) { return len(p), nil }
func (r *refusal) WriteHeader(status int)      { r.status = status }

// Bearer gives the key of an Authorization header, "" if there is none.
func Bearer(r *http.Request) string {
	scheme, key, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(key)
}
