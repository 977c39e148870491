package daemon

import (
	"context"
	"errors"
	"io"
	"iter"
	"net/http"
	"sync"

	"lambent"
	"lambent/auth/apikey"
	"lambent/code"
	"lambent/control"
	"lambent/gateway"
	"lambent/internal/drain"
	"lambent/observe/logs"
	"lambent/observe/system"
)

// serve serves until ctx ends, or another process has taken the place of this one, and drains.
func (n *node) serve(ctx context.Context) (err error) {
	if !loopback(n.manage) && n.certs == nil {
		n.log.Warn("others than this machine reach the control API, and keys come to it in the clear: use --tls-cert and --tls-key, or let it listen on loopback",
			"control", n.cfg.Control)
	}
	n.openDoors()
	adoption := n.adoptLeft(ctx)
	defer adoption.end()
	adopted := adoption.wait()
	public, private := n.server(n.functions, n.public, n.certs), n.server(n.manage, http.HandlerFunc(n.manageDoor), n.manageCerts())
	n.servers = []*drain.Server{public, private}
	failed := make(chan error, len(n.servers))
	var serving sync.WaitGroup
	for _, s := range n.servers {
		serving.Go(func() {
			if err := s.Serve(); err != nil {
				failed <- err
			}
		})
	}
	n.serveLate(&serving)
	alive := make(chan struct{})
	serving.Go(func() { n.notify.watchdog(alive) })
	stop := n.commands(ctx, &serving)
	n.started(adopted)
	unwatch := n.watchDisk()
	n.notify.ready(n.status())
	n.cfg.Serving(n.at)
	if n.before != nil {
		_ = n.before.conn.Send(message{Step: saysServing}) // it may be gone, and need not know
	}
	select {
	case <-ctx.Done():
	case <-n.replaced:
	case err = <-failed:
	}
	unwatch()
	stop()
	n.upgrading.Lock() // an upgrade under way has an outcome now
	if n.next != nil {
		err = errors.Join(err, n.leave(ctx))
	} else {
		n.ending(err)
		n.notify.stopping("drains")
		n.stop()
		n.unfollow()
		n.drain()
		n.clean = true
	}
	close(alive)
	serving.Wait()
	return err
}

func (n *node) status() string {
	return "functions at " + n.at.Functions + ", control API at " + n.at.Control
}

// openDoors leads requests to the rooms of this process.
func (n *node) openDoors() {
	if n.lacking == nil {
		n.collect()
	}
	n.following, n.unfollow = context.WithCancel(context.Background())
	n.public.lead(n.gateway(n.invoker, func() bool { return n.servers[0].Draining() }))
	api := n.api()
	n.calls.lead(api)
	if n.lacking != nil {
		api = closed(n.lacking)
	}
	n.admin.lead(api)
}

// closed answers everything with why the store is not open.
func closed(why error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		lambent.WriteError(w, lambent.Errorf(lambent.CodeShuttingDown, "an upgrade failed, and then the store could not be opened again: %w", why).
			WithHint("functions are served, and it is tried again; see the log"))
	})
}

func (n *node) authenticate(r *http.Request) (lambent.Principal, bool) {
	return n.keys.Authenticate(control.Bearer(r))
}

func (n *node) gateway(i lambent.Invoker, closing func() bool) http.Handler {
	return gateway.New(gateway.Options{
		Table: n.table, Routes: &n.routes, Invoker: i, Authenticate: n.authenticate, Public: loopback(n.functions), Closing: closing, Tally: &n.open,
	})
}

// api makes the control API on the stores that are open now.
func (n *node) api() http.Handler {
	return control.New(control.Options{
		Version: n.cfg.Version, Store: n.store, Functions: n.table, Code: bundles{n.code}, Executor: n.tiers,
		Build: n.build, Ready: n.dispatch.Ready, Abandon: n.abandon, Applied: n.applied, Invoker: n.invoker,
		Records: n.past.records, Logs: logReader{n.past.logs, n.following}, Events: eventReader{n.past.events, n.following}, Findings: n.findings,
		Public: loopback(n.functions), Endpoint: func() string { return n.at.Functions }, Authenticate: n.authenticate,
		MakeKey: apikey.New, Secrets: n.secrets, Refresh: n.refresh, Changed: n.garbage.Changed, Circuit: n.dispatch.Circuit,
		Metrics: n.metrics.Handler(), Logger: n.log,
	})
}

// manageDoor is the handler of the control listener.
func (n *node) manageDoor(w http.ResponseWriter, r *http.Request) {
	if control.Apart(r) {
		n.calls.ServeHTTP(w, r)
		return
	}
	n.admin.ServeHTTP(w, r)
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

// until gives what read gives with a context that ends with both. Where it is not the reader who has left, he is told to
// come again.
func until[T any](stopping, reader context.Context, read func(context.Context) iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		ctx, cancel := context.WithCancel(reader)
		defer cancel()
		defer context.AfterFunc(stopping, cancel)()
		for v, err := range read(ctx) {
			if !yield(v, err) || err != nil {
				return
			}
		}
		if ctx.Err() != nil && (reader.Err() == nil || errors.Is(context.Cause(reader), errLate)) {
			var none T
			yield(none, lambent.Errorf(lambent.CodeShuttingDown, "this node is being upgraded, or stopped").WithHint("begin again"))
		}
	}
}

// bundles gives the control API its code.
type bundles struct{ *code.Store }

func (b bundles) Open(digest string) (io.ReadCloser, error) { return b.Store.Open(digest) }
