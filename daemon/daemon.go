// Package daemon wires the rooms of one node from a Config. It is the only room that names leaves: a new
// tier, trigger or foreign API is one line here.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"sync"

	"lambent"
	"lambent/auth/apikey"
	"lambent/builder"
	"lambent/code"
	"lambent/control"
	"lambent/dispatch"
	"lambent/executor"
	"lambent/executor/builtin"
	"lambent/executor/process"
	"lambent/gateway"
	"lambent/gateway/route"
	"lambent/internal/drain"
	"lambent/internal/durable"
	"lambent/internal/egress"
	"lambent/internal/embednats"
	"lambent/observe"
	"lambent/observe/logs"
	"lambent/observe/metric"
	"lambent/observe/record"
	"lambent/observe/system"
	"lambent/secret"
	"lambent/store/jetstream"
)

// Run runs a node until ctx ends, then drains and stops it. It returns when nothing of it is left, with an
// error if it could not start or stop cleanly.
func Run(ctx context.Context, cfg Config) error {
	cfg.complete()
	if err := durable.MkdirAll(cfg.Data, 0o700); err != nil {
		return err
	}
	held, err := lock(cfg.path("lock"))
	if err != nil {
		return err
	}
	defer held.Close()
	if err := durable.RemoveUnfinished(cfg.Data); err != nil {
		return err
	}
	n := &node{cfg: cfg, log: cfg.Logger, table: route.New()}
	err = n.open(ctx)
	if err == nil {
		err = n.serve(ctx)
	}
	return errors.Join(err, n.close())
}

// node is the rooms of a running daemon, in the order in which they open.
type node struct {
	cfg    Config
	log    *slog.Logger
	table  *route.Table
	routes route.Routes

	listeners listeners

	keys     *apikey.Ring
	newKey   bool
	nats     *embednats.Server
	store    *jetstream.Store
	secrets  *secret.Vault
	code     *code.Store
	logs     *logs.Store
	records  *record.Store
	events   *system.Store
	metrics  *metric.Metrics
	tiers    tiers
	builds   *builder.Service
	dispatch *dispatch.Dispatcher
	invoker  lambent.Invoker
	progress map[string]*route.Progress // of the watches, by the prefix of their keys
	watching sync.WaitGroup
	unwatch  context.CancelFunc
}

func (n *node) open(ctx context.Context) (err error) {
	admin, made, err := apikey.LoadOrCreate(n.cfg.path("admin.key"))
	if err != nil {
		return err
	}
	n.keys, n.newKey = apikey.NewRing(admin), made
	if n.nats, err = embednats.Start(embednats.Options{Dir: n.cfg.path("nats"), Logger: n.log}); err != nil {
		return err
	}
	if n.store, err = jetstream.Open(ctx, jetstream.Options{
		Server: n.nats, Bucket: "resources", AcceptLoss: n.cfg.AcceptLoss, Logger: n.log,
	}); err != nil {
		return err
	}
	if n.secrets, err = secret.Open(ctx, secret.Options{KeyFile: n.cfg.path("secret.key"), Store: n.store}); err != nil {
		return err
	}
	if n.code, err = code.Open(code.Options{Dir: n.cfg.path("code"), Logger: n.log}); err != nil {
		return err
	}
	if n.logs, err = logs.Open(logs.Options{Dir: n.cfg.path("logs"), Logger: n.log}); err != nil {
		return err
	}
	if n.records, err = record.Open(record.Options{Dir: n.cfg.path("records"), Logger: n.log}); err != nil {
		return err
	}
	if n.events, err = system.Open(system.Options{Dir: n.cfg.path("events"), Logger: n.log}); err != nil {
		return err
	}
	tier, err := process.New(process.Options{Dir: n.cfg.path("run"), Logger: n.log, Unsandboxed: n.cfg.Unsandboxed,
		Egress: egress.New(egress.Options{Permit: n.cfg.EgressPermit, Own: n.listeners.addresses})})
	if err != nil {
		return err
	}
	n.tiers = tiers{lambent.TierProcess: tier, lambent.TierBuiltin: builtin.New()}
	n.warn(tier)
	if err := n.openBuilds(tier); err != nil {
		return err
	}
	n.metrics = metric.New(metric.Options{Pools: n.pools(), Lost: map[string]func() uint64{
		"records": n.records.Lost, "log_lines": n.logs.Lost, "system_events": n.events.Lost}})
	n.recount()
	n.dispatch = dispatch.New(dispatch.Options{
		Executors: n.tiers,
		Tree:      n.code.Tree,
		Secrets:   n.secrets.Values,
		Log:       n.logs.Add,
		Event:     n.event,
		Logger:    n.log,
	})
	n.invoker = observe.Wrap(n.dispatch, n.records.Add, n.metrics.Add)
	return n.watch(ctx)
}

// warn tells the operator when functions are not isolated as root could isolate them.
func (n *node) warn(tier executor.Executor) {
	isolation := tier.Isolation()
	switch {
	case isolation.Level == lambent.IsolationFull:
	case len(tier.Runtimes()) == 0:
		n.log.Warn("functions cannot run here", "why", isolation.Lacks[0])
	case isolation.Level == lambent.IsolationNone:
		n.log.Warn("functions run WITHOUT A SANDBOX", "isolation", isolation)
	default:
		n.log.Warn("functions are isolated without root", "isolation", isolation)
	}
}

func (n *node) retire(lost []*lambent.Revision) {
	for _, rev := range lost {
		n.dispatch.Retire(rev)
	}
}

// abandon retires a revision that no function or alias refers to.
func (n *node) abandon(rev *lambent.Revision) {
	if !n.table.Refers(rev) {
		n.dispatch.Retire(rev)
	}
}

func (n *node) pools() iter.Seq[metric.Pool] {
	return func(yield func(metric.Pool) bool) {
		for s := range n.dispatch.Stats() {
			if !yield(metric.Pool{Namespace: s.Revision.Namespace, Function: s.Revision.Function,
				Instances: s.Instances, Starting: s.Starting, InFlight: s.InFlight, Waiting: s.Waiting}) {
				return
			}
		}
	}
}

// serve listens, serves until ctx ends, and drains.
func (n *node) serve(ctx context.Context) error {
	certs, err := n.certificates()
	if err != nil {
		return err
	}
	functions, err := n.listeners.listen(n.cfg.Listen)
	if err != nil {
		return err
	}
	defer functions.Close()
	admin, err := n.listeners.listen(n.cfg.Control)
	if err != nil {
		return err
	}
	defer admin.Close()
	adminCerts := certs
	switch {
	case loopback(admin):
		adminCerts = nil
	case certs == nil:
		n.log.Warn("others than this machine reach the control API, and keys come to it in the clear: use --tls-cert and --tls-key, or let it listen on loopback",
			"control", n.cfg.Control)
	}
	endpoints := Endpoints{Functions: url(functions, certs), Control: url(admin, adminCerts), KeyFile: n.cfg.path("admin.key"), NewKey: n.newKey}
	if certs != nil {
		endpoints.CAFile = n.cfg.TLS[0].Cert
	}
	authenticate := func(r *http.Request) (lambent.Principal, bool) { return n.keys.Authenticate(control.Bearer(r)) }
	stopping, stop := context.WithCancel(context.Background())
	defer stop()
	var public *drain.Server
	public = n.server(functions, gateway.New(gateway.Options{
		Table: n.table, Routes: &n.routes, Invoker: n.invoker, Authenticate: authenticate, Public: loopback(functions),
		Closing: func() bool { return public.Draining() },
	}), certs)
	private := n.server(admin, control.New(control.Options{
		Version: n.cfg.Version, Store: n.store, Functions: n.table, Code: bundles{n.code}, Executor: n.tiers,
		Build: n.build(stopping), Ready: n.dispatch.Ready, Abandon: n.abandon, Applied: n.applied, Invoker: n.invoker,
		Records: n.records, Logs: logReader{n.logs, stopping}, Events: eventReader{n.events, stopping}, Findings: n.findings,
		Public: loopback(functions), Endpoint: func() string { return endpoints.Functions }, Authenticate: authenticate,
		MakeKey: apikey.New, Secrets: n.secrets, Refresh: n.dispatch.Refresh,
		Metrics: n.metrics.Handler(), Logger: n.log,
	}), adminCerts)
	failed := make(chan error, 2)
	var serving sync.WaitGroup
	for _, server := range []*drain.Server{public, private} {
		serving.Go(func() {
			if err := server.Serve(); err != nil {
				failed <- err
			}
		})
	}
	if err = n.cfg.writeEndpoints(endpoints); err == nil {
		n.started()
		n.cfg.Serving(endpoints)
		select {
		case <-ctx.Done():
		case err = <-failed:
		}
	}
	n.stopping(err)
	stop()
	n.drain(public, private)
	serving.Wait()
	return err
}

// drain stops accepting, lets the calls under way end, and cuts what is left when their time is up. The
// dispatcher closes last, so that no request is refused that was accepted before; what it still has then
// are switched connections, which their server does not wait for.
func (n *node) drain(servers ...*drain.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), n.cfg.Drain)
	defer cancel()
	var draining sync.WaitGroup
	for _, s := range servers {
		draining.Go(func() { s.Drain(ctx, drain.Options{Idle: n.cfg.Idle}) })
	}
	draining.Wait()
	n.dispatch.Close(ctx)
}

// close closes the rooms, the last opened first.
func (n *node) close() error {
	var errs []error
	done := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("closing the %s: %w", what, err))
		}
	}
	if n.unwatch != nil {
		n.unwatch()
	}
	if n.dispatch != nil {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		n.dispatch.Close(ctx)
	}
	done("tiers", n.tiers.close())
	n.watching.Wait()
	if n.events != nil {
		done("system events", n.events.Close())
	}
	if n.records != nil {
		done("records", n.records.Close())
	}
	if n.logs != nil {
		done("logs", n.logs.Close())
	}
	if n.code != nil {
		done("code store", n.code.Close())
	}
	if n.store != nil {
		done("store", n.store.Close())
	}
	if n.nats != nil {
		done("NATS server", n.nats.Close())
	}
	return errors.Join(errs...)
}

// logReader gives the control API its logs, to followers until the node stops: they would stay for ever.
type logReader struct {
	*logs.Store
	stopping context.Context
}

func (l logReader) Read(ctx context.Context, q control.LogQuery) iter.Seq2[lambent.LogLine, error] {
	return until(l.stopping, ctx, func(ctx context.Context) iter.Seq2[lambent.LogLine, error] { return l.Store.Read(ctx, logs.Query(q)) })
}

// eventReader gives the control API the system events, as logReader does the logs.
type eventReader struct {
	*system.Store
	stopping context.Context
}

func (e eventReader) Read(ctx context.Context, q control.EventQuery) iter.Seq2[lambent.SystemEvent, error] {
	return until(e.stopping, ctx, func(ctx context.Context) iter.Seq2[lambent.SystemEvent, error] {
		return e.Store.Read(ctx, system.Query(q))
	})
}

// until gives what read gives with a context that ends with both.
func until[T any](stopping, ctx context.Context, read func(context.Context) iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(stopping, cancel)()
		read(ctx)(yield)
	}
}

// bundles gives the control API its code.
type bundles struct{ *code.Store }

func (b bundles) Open(digest string) (io.ReadCloser, error) { return b.Store.Open(digest) }
