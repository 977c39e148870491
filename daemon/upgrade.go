package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"lambent"
	"lambent/executor"
	"lambent/internal/drain"
	"lambent/store/memory"
)

// quietTimeout is how long requests to the control API that use the store may take to end when it is to be given up.
const quietTimeout = 30 * time.Second

// drainIdle is how long a connection without a request is kept by a process that was replaced.
const drainIdle = 5 * time.Second

// upgrade has another process take the place of this one. It returns when that is to serve, or when this one serves as
// before; say is told of the steps. Until the message "serve" each step can be undone, and afterwards none. Only then
// does the new process accept, so no request is ever between the two.
func (n *node) upgrade(ctx context.Context, o UpgradeOptions, say func(string)) (next *successor, err error) {
	if !n.upgrading.TryLock() {
		return nil, refused("an upgrade is under way")
	}
	defer n.upgrading.Unlock()
	binary, err := n.upgradable(o.Binary)
	if err != nil {
		return nil, err
	}
	step := cmp.Or(o.Step, stepTimeout)
	if err := n.awaitCleared(ctx, step); err != nil {
		return nil, err
	}
	say("starting " + binary)
	n.notify.reloading()
	if next, err = n.succeed(binary, step); err != nil {
		n.upgradeFailed(err)
		return nil, err
	}
	spare := context.AfterFunc(ctx, next.kill)
	undo, err := n.giveUp(ctx, next, say)
	if !spare() && err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = next.conn.Send(message{Step: saysServe})
	}
	if err == nil {
		n.next = next
		n.notify.replaced(next.PID, n.status())
		close(n.replaced)
		return next, nil
	}
	next.kill()
	err = next.explain(err)
	for _, u := range slices.Backward(undo) {
		u()
	}
	n.upgradeFailed(err)
	return nil, err
}

func refused(format string, args ...any) *lambent.Error {
	return lambent.Errorf(lambent.CodeConflict, format, args...)
}

func (n *node) upgradeFailed(err error) {
	n.log.Error("the upgrade failed, this process goes on to serve", "err", err)
	n.event(lambent.SystemEvent{Kind: lambent.EventUpgradeFailed, Text: err.Error()})
	n.notify.ready(n.status())
}

// upgradable gives the file to start.
func (n *node) upgradable(binary string) (_ string, err error) {
	switch {
	case n.next != nil:
		return "", refused("this process was replaced and serves what it began")
	case os.Getpid() == 1:
		return "", refused("this process is the first of a container, which would end with it").WithHint("roll the pod or the container instead")
	case n.before != nil && !n.before.over():
		return "", refused("the process before this one (pid %d) still serves what it began before the last upgrade", n.before.PID).
			WithHint("try again when it is gone, or end it: it is given %s then", n.cfg.Drain)
	}
	if binary == "" {
		binary, err = os.Executable()
	}
	return binary, err
}

// awaitCleared waits until this process has adopted or swept what processes before it have left. Later that
// would end what it gives to the next one, and what that starts.
func (n *node) awaitCleared(ctx context.Context, within time.Duration) error {
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-n.cleared:
		return nil
	case <-timer.C:
		return refused("what the process before this one has left is still being adopted or ended").WithHint("try again in a moment")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// giveUp gives to next what only one process can have, one thing after the other. What it gives undoes that.
func (n *node) giveUp(ctx context.Context, next *successor, say func(string)) (undo []func(), err error) {
	m, err := next.expect(saysHello)
	switch {
	case err != nil:
		return nil, err
	case m.Hello == nil || m.Hello.Protocol != protocol:
		return nil, failed("%s speaks another protocol of upgrades than this process, which speaks %d", next.binary, protocol).
			WithHint("stop this process and start the other")
	}
	next.hello = *m.Hello
	n.event(lambent.SystemEvent{Kind: lambent.EventUpgradeBegun, Text: fmt.Sprintf("from %s to %s, process %d", n.cfg.Version, next.Version, next.PID)})
	say(fmt.Sprintf("lambent %s (process %d) opens what needs no store", next.Version, next.PID))
	heirlooms := []syscall.Conn{n.held, os.Stderr, n.functions.(*net.TCPListener), n.manage.(*net.TCPListener), n.local}
	heir := &inheritance{PID: os.Getpid(), Version: n.cfg.Version, Half: 1 - n.half}
	next.tell(message{Step: saysInherit, Heir: heir}, heirlooms...)
	if _, err := next.expect(saysPrepared); err != nil {
		return nil, err
	}

	say("waiting for requests that change something")
	n.admin.hold()
	undo = append(undo, n.openDoors)
	n.unfollow()
	quiet := min(quietTimeout, next.step)
	bound, cancel := context.WithTimeout(ctx, quiet)
	defer cancel()
	if inside := n.admin.idle(bound); len(inside) > 0 {
		return undo, cmp.Or(ctx.Err(), error(refused("these did not end within %s: %s", quiet, strings.Join(inside, ", ")).
			WithHint("try again when they have")))
	}
	say("handing the store over")
	frozen, err := n.secrets.Frozen(ctx, memory.New())
	if err != nil {
		return undo, err
	}
	n.useSecrets(frozen)
	undo = append(undo, n.reopen)
	if err := n.closeStore(); err != nil {
		return undo, failed("closing the store: %w", err)
	}
	next.tell(message{Step: saysFree})
	if _, err := next.expect(saysReady); err != nil {
		return undo, err
	}

	n.public.hold()
	n.calls.hold()
	for _, s := range n.servers {
		s.Pause()
		undo = append(undo, s.Resume)
	}
	n.outbox = newOutbox()
	undo = append(undo, n.rewind)
	if err := n.past.lend(n.outbox); err != nil {
		return undo, failed("closing logs and records: %w", err)
	}
	next.tell(message{Step: saysGo})
	_, err = next.expect(saysOpen)
	return undo, err
}

// reopen opens the store again that a successor did not take. Where it cannot, functions are served with the secrets
// that there are, and it tries again.
func (n *node) reopen() {
	retrying := n.lacking != nil
	if err := n.tryReopen(); err != nil && !retrying {
		n.reopening.Go(n.retryReopen)
	}
}

func (n *node) tryReopen() error {
	frozen := n.secrets
	err := n.closeStore()
	if err == nil {
		err = n.openStore(n.stopping)
	}
	if n.lacking = err; err != nil {
		n.log.Error("the store cannot be opened again: functions are served, but nothing can be changed", "err", err)
		n.useSecrets(frozen)
		return errors.Join(err, n.closeStore())
	}
	return nil
}

// retryReopen opens the store and the doors to it, unless another process or another attempt does so before.
func (n *node) retryReopen() {
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		select {
		case <-time.After(wait):
		case <-n.stopping.Done():
			return
		case <-n.replaced:
			return
		}
		if !n.upgrading.TryLock() { // an upgrade tries, too, and a stop does not want it
			continue
		}
		over := n.lacking == nil || n.next != nil
		if !over && n.tryReopen() == nil {
			n.openDoors()
			over = true
		}
		n.upgrading.Unlock()
		if over {
			return
		}
	}
}

// rewind opens again what openPublic has opened in a successor.
func (n *node) rewind() {
	if err := n.cfg.writeEndpoints(n.at); err != nil {
		n.log.Error("where this node serves cannot be written down again", "err", err)
	}
	if err := n.past.open(&n.cfg); err != nil {
		n.log.Error("logs and records cannot be opened again: they are lost until a restart", "err", err)
	}
}

// leave serves what this process has begun, passes on what comes to it late, and gives its instances to the process
// that has taken its place. It returns when nothing is left. When the time to drain after the end of stop, or of that
// process, is over it cuts what is left. The error says that there may be nobody who serves.
func (n *node) leave(stop context.Context) error {
	ctx, cut := context.WithCancel(context.Background())
	defer cut()
	defer context.AfterFunc(n.cfg.Hurry, func() {
		n.dispatch.Hurry()
		cut()
	})()
	soon := func() { time.AfterFunc(n.cfg.Drain, cut) }
	defer context.AfterFunc(stop, soon)()
	next := n.next
	go next.await()
	go func() {
		<-next.ended
		soon()
	}()
	var sending sync.WaitGroup
	sending.Go(func() {
		if err := n.outbox.sendTo(next.conn); err != nil {
			n.log.Error("what happened here cannot be told to the new process any more", "err", err)
			soon()
		}
	})
	n.dispatch.BeginDrain(24 * time.Hour)
	now, already := context.WithCancel(ctx)
	already()
	n.dispatch.Handover(now, n.give, n.tellEnd)
	settled := make(chan struct{})
	n.outbox.put(message{Step: saysSettled, sent: settled})
	select { // what is passed on does not wait in the outbox, and nobody accepts it before
	case <-settled:
	case <-next.ended:
	case <-ctx.Done():
	}
	functions, manage := n.passOn(next.dial(lateFunctions)), n.passOn(next.dial(lateControl))
	n.public.lead(functions)
	n.calls.lead(manage)
	n.admin.lead(manage)

	var leaving sync.WaitGroup
	leaving.Go(func() { n.dispatch.Handover(ctx, n.give, n.tellEnd) })
	for _, s := range n.servers {
		leaving.Go(func() { s.Drain(ctx, drain.Options{Idle: drainIdle, Shared: true}) })
	}
	leaving.Wait()
	wait(ctx, &n.passing)
	n.dispatch.Close(ctx)
	n.outbox.close()
	sending.Wait()
	n.outbox.tellLost(n.log)
	_, err := next.served(ctx)
	select {
	case <-next.ended:
		if err == nil && !next.cmd.ProcessState.Success() {
			err = failed("process %d, which had taken over, ended: %s", next.PID, next.cmd.ProcessState)
		}
	default:
	}
	next.conn.Close()
	return err
}

// give tells the new process of an instance that it answers for from now on.
func (n *node) give(inst executor.Instance, rev *lambent.Revision, inFlight []string) {
	inst.(executor.Leaver).Leave()
	n.outbox.put(message{Given: &given{inst.ID(), rev, inFlight}})
}

func (n *node) tellEnd(instance, invocation string, broken bool) {
	n.outbox.put(message{Ended: &ended{instance, invocation, broken}})
}
