// Package daemon wires the rooms of one node from a Config. It is the only room that names leaves: a new
// tier, trigger or foreign API is one line here.
//
// A node can be upgraded: another process takes the place of this one without losing a request. The two share the
// listening sockets and the lock of the data folder, and speak over a connection that only they have. What one of them
// at a time can have goes over in steps, each with a bound:
//
//	new: hello     I speak this protocol
//	old: inherit   here are the lock and the listeners
//	new: prepared  all is open that needs no store: executors, dispatcher
//	old: free      requests to the control API wait, those under way have ended, the store is closed
//	new: ready     the store is open, the route table complete
//	old: go        requests wait, nothing is accepted, logs and records are closed; what happens from now on is kept
//	new: open      they are open
//	old: serve     from here there is no way back
//	old: settled   the instances that wait for nothing are given
//	new: serving   it accepts
//
// Invocations go on in the old process all the time, but for the milliseconds from go to settled, in which new ones wait.
// Whatever happens to the new process before "serve", the old one ends it, opens again what it has closed, and serves what
// waited. After "serve" the old process serves what it has begun. It passes on what still comes to its connections, and
// tells of records, log lines, the instances that it gives away and the ends of the invocations that it serves with them.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"

	"lambent"
	"lambent/auth/apikey"
	"lambent/builder"
	"lambent/code"
	"lambent/dispatch"
	"lambent/executor"
	"lambent/executor/builtin"
	"lambent/executor/process"
	"lambent/executor/wasm"
	"lambent/gateway"
	"lambent/gateway/route"
	"lambent/internal/drain"
	"lambent/internal/durable"
	"lambent/internal/egress"
	"lambent/internal/embednats"
	"lambent/internal/keypair"
	"lambent/observe"
	"lambent/observe/metric"
	"lambent/secret"
	"lambent/store/jetstream"
)

// ballast is a part of the heap that is never touched, so it takes no memory (bytes). The collector runs whenever the heap
// has doubled, and that of a node with few functions is so small that under load it would run twenty times a second, for
// a tenth of the time of each request.
const ballast = 32 << 20

// Run runs a node until ctx ends, then drains and stops it, or until another process has taken its place and it has
// served what it began. It returns when nothing of it is left, with an error if it could not start or stop cleanly.
func Run(ctx context.Context, cfg Config) error {
	cfg.complete()
	n := &node{
		cfg: cfg, log: cfg.Logger, table: route.New(), past: newPast(), notify: notifier{cfg.Logger},
		public: &door{}, calls: &door{}, admin: watched(), replaced: make(chan struct{}), cleared: make(chan struct{}),
	}
	ballast := make([]byte, ballast)
	defer runtime.KeepAlive(ballast)
	n.stopping, n.stop = context.WithCancel(context.Background())
	defer n.stop()
	var err error
	if cfg.Before != nil {
		n.before = newPredecessor(cfg.Before)
		err = n.takeOver(ctx)
	} else {
		err = n.begin(ctx)
	}
	if err == nil {
		err = n.serve(ctx)
	}
	if err = errors.Join(err, n.close()); err == nil && n.cut != "" {
		n.log.Info("stopped: " + n.cut)
	}
	return err
}

// node is the rooms of a running daemon.
type node struct {
	cfg      Config
	log      *slog.Logger
	stopping context.Context // ends when the node begins to stop
	stop     context.CancelFunc
	held     *os.File // the lock of the data folder
	clean    bool     // what the next start comes after is a stop that was completed
	notify   notifier

	listeners         listeners
	functions, manage net.Listener
	local             *net.UnixListener // for commands of this machine; nil where there are none
	certs             *keypair.Store    // nil without TLS
	at                Endpoints
	servers           []*drain.Server // of functions and manage
	late              []*http.Server  // of what the process before passes on
	public            *door           // to functions
	calls, admin      *door           // to what of the control API needs no store, and to the rest of it
	open              gateway.Tally   // of WebSockets and event streams
	cut               string          // what was cut when the node stopped; "" before

	upgrading sync.Mutex     // held during an upgrade
	lacking   error          // why the store is not open after one that failed; nil when it is
	reopening sync.WaitGroup // of the store
	before    *predecessor   // whose place this process has taken; nil for none
	hearing   sync.WaitGroup // of what it says
	half      int            // of the users of instances, which this process uses
	next      *successor     // that has taken the place of this process
	replaced  chan struct{}  // closed when next is set
	outbox    *outbox        // to next
	passing   sync.WaitGroup // of late requests
	adopting  sync.RWMutex   // held for writing while instances are told from those with older secrets
	cleared   chan struct{}  // closed when nothing is left of processes before that this one has not adopted

	// What serves invocations is open until the node ends; see openEngine.
	table    *route.Table
	routes   route.Routes
	keys     *apikey.Ring
	newKey   bool
	code     *code.Store
	metrics  *metric.Metrics
	runner   executor.Runner
	tiers    tiers
	dispatch *dispatch.Dispatcher
	invoker  lambent.Invoker
	past     *past

	// What only one process at a time has open; see openStore.
	nats      *embednats.Server
	store     *jetstream.Store
	builds    *builder.Service
	progress  map[string]*route.Progress // of the watches, by the prefix of their keys
	watching  sync.WaitGroup
	unwatch   context.CancelFunc
	following context.Context // of those who follow logs and events
	unfollow  context.CancelFunc
	sealed    sync.RWMutex // held for writing while secrets changes
	secrets   *secret.Vault
	garbage   *garbage
}

// begin opens a node that takes nobody's place.
func (n *node) begin(ctx context.Context) (err error) {
	if err := durable.MkdirAll(n.cfg.Data, 0o700); err != nil {
		return err
	}
	if n.held, n.clean, err = lock(n.cfg.path("lock")); err != nil {
		return err
	}
	if err := n.loadCertificates(); err != nil {
		return err
	}
	if err := durable.RemoveUnfinished(n.cfg.Data); err != nil {
		return err
	}
	if err := n.openEngine(); err != nil {
		return err
	}
	if err := n.openStore(ctx); err != nil {
		return err
	}
	if n.functions, err = n.listeners.listen(n.cfg.Listen); err != nil {
		return err
	}
	if n.manage, err = n.listeners.listen(n.cfg.Control); err != nil {
		return err
	}
	if err := n.listenLocal(); err != nil {
		return err
	}
	return n.openPublic()
}

// openEngine opens what serves invocations.
func (n *node) openEngine() error {
	admin, made, err := apikey.LoadOrCreate(n.cfg.path("admin.key"))
	if err != nil {
		return err
	}
	n.keys, n.newKey = apikey.NewRing(admin), made
	if n.code, err = code.Open(code.Options{Dir: n.cfg.path("code"), Shared: n.before != nil, Logger: n.log}); err != nil {
		return err
	}
	run, err := n.cfg.runFolder(volatile)
	if err != nil {
		return err
	}
	tier, err := process.New(process.Options{Dir: run, Half: n.half, Logger: n.log, Unsandboxed: n.cfg.Unsandboxed,
		Egress: egress.New(egress.Options{Permit: n.cfg.EgressPermit, Own: n.listeners.addresses})})
	if err != nil {
		return err
	}
	n.runner = tier
	n.tiers = tiers{lambent.TierProcess: tier, lambent.TierBuiltin: builtin.New()}
	n.warn(tier)
	modules, err := wasm.New(wasm.Options{Dir: n.cfg.path("wasm"), Sandbox: tier, Has: n.code.Has, Space: n.code.Space, Logger: n.log})
	if err != nil {
		return err
	}
	n.tiers[lambent.TierWasm] = modules
	n.metrics = metric.New(metric.Options{Pools: n.pools(), Lost: n.past.losses()})
	n.dispatch = dispatch.New(dispatch.Options{
		Executors: n.tiers,
		Tree:      n.code.Tree,
		Secrets:   n.values,
		Log:       n.past.line,
		Event:     n.event,
		Logger:    n.log,
	})
	n.invoker = observe.Wrap(n.dispatch, n.past.record, n.metrics.Add)
	return nil
}

// openStore opens the store and what reads and writes it.
func (n *node) openStore(ctx context.Context) (err error) {
	if n.nats, err = embednats.Start(embednats.Options{Dir: n.cfg.path("nats"), Logger: n.log}); err != nil {
		return err
	}
	if n.store, err = jetstream.Open(ctx, jetstream.Options{
		Server: n.nats, Bucket: "resources", AcceptLoss: n.cfg.AcceptLoss, Logger: n.log,
	}); err != nil {
		return err
	}
	secrets, err := secret.Open(ctx, secret.Options{KeyFile: n.cfg.path("secret.key"), Store: n.store})
	if err != nil {
		return err
	}
	n.useSecrets(secrets)
	if err := n.openBuilds(n.runner); err != nil {
		return err
	}
	return n.watch(ctx)
}

// closeStore lets another process open it. It may be called again.
func (n *node) closeStore() error {
	n.stopCollecting()
	if n.unfollow != nil {
		n.unfollow()
	}
	if n.unwatch != nil {
		n.unwatch()
	}
	n.watching.Wait()
	var errs []error
	if n.store != nil {
		errs = append(errs, n.store.Close())
	}
	if n.nats != nil {
		errs = append(errs, n.nats.Close())
	}
	n.store, n.nats = nil, nil
	return errors.Join(errs...)
}

func (n *node) useSecrets(v *secret.Vault) {
	n.sealed.Lock()
	defer n.sealed.Unlock()
	n.secrets = v
}

// values gives the values of secrets that an instance of rev is started with.
func (n *node) values(ctx context.Context, rev *lambent.Revision) (map[string]string, error) {
	n.sealed.RLock()
	defer n.sealed.RUnlock()
	return n.secrets.Values(ctx, rev)
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
				Instances: s.Instances, Starting: s.Starting, InFlight: s.InFlight, Waiting: s.Waiting, CircuitsOpen: s.CircuitsOpen}) {
				return
			}
		}
	}
}

// close closes the rooms, the last opened first.
func (n *node) close() error {
	var errs []error
	done := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("closing the %s: %w", what, err))
		}
	}
	if n.before != nil {
		n.before.conn.Close()
		n.hearing.Wait()
	}
	n.reopening.Wait()
	n.stopCollecting()
	if n.dispatch != nil {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		n.dispatch.Close(ctx)
	}
	done("tiers", n.tiers.close())
	n.cfg.leaveRunFolder()
	done("logs, records and system events", n.past.lend(newOutbox()))
	if n.code != nil {
		done("code store", n.code.Close())
	}
	done("store", n.closeStore())
	if n.held != nil {
		if n.clean {
			if n.local != nil {
				done("socket for commands", os.Remove(n.cfg.path(socketFile)))
			}
			done("lock", released(n.held))
		}
		done("lock", n.held.Close())
	}
	return errors.Join(errs...)
}
