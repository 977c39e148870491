package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"lambent"
	"lambent/executor"
)

// adopt answers for an instance that another process has started. Whoever calls it holds n.adopting for reading.
func (n *node) adopt(ctx context.Context, id string, rev *lambent.Revision, inFlight []string) error {
	spec := executor.Spec{ID: id, Revision: rev, Log: n.past.line}
	if len(rev.Settings.Secrets) > 0 {
		var err error
		if spec.Secrets, err = n.values(ctx, rev); err != nil {
			return err
		}
	}
	adopter, ok := n.runner.(executor.Adopter)
	if !ok {
		return lambent.Errorf(lambent.CodeTierUnavailable, "this node cannot adopt instances")
	}
	inst, err := adopter.Adopt(ctx, spec, inFlight)
	if err != nil {
		return err
	}
	if err := n.dispatch.Adopt(rev, inst, inFlight); err != nil {
		inst.Stop(0)
		return err
	}
	return nil
}

// refresh ends the use of instances whose secrets have changed, see [control.Options.Refresh]. Who adopts has looked at
// the secrets before, and is waited for, or looks afterwards.
func (n *node) refresh(stale func(*lambent.Revision) bool) {
	n.adopting.Lock()
	defer n.adopting.Unlock()
	n.dispatch.Refresh(stale)
}

func (n *node) sweep() error {
	if adopter, ok := n.runner.(executor.Adopter); ok {
		return adopter.Sweep()
	}
	return nil
}

const (
	// adopters is how many instances are adopted at a time: it is mostly waiting for them.
	adopters = 64
	// adoptWait is how long serving waits for the adoption of what is left, so that the first requests meet warm instances.
	adoptWait = 300 * time.Millisecond
)

// adoption is the taking over of what a process left that nobody takes over from.
type adoption struct {
	cancel  context.CancelFunc
	done    chan struct{}
	left    int // set before done is closed
	adopted int // set before done is closed
}

// adoptLeft adopts what is left and still wanted, and ends the rest. It returns at once; the route table must be complete.
func (n *node) adoptLeft(ctx context.Context) *adoption {
	a := &adoption{done: make(chan struct{})}
	ctx, a.cancel = context.WithCancel(ctx)
	go func() {
		defer close(a.done)
		if n.before != nil { // hear does it
			return
		}
		defer close(n.cleared)
		var err error
		if adopter, ok := n.runner.(executor.Adopter); ok {
			a.left, a.adopted, err = n.adoptAll(ctx, adopter)
			err = errors.Join(err, adopter.Sweep())
		}
		if err != nil {
			n.log.Error("what an earlier process left cannot be cleared away", "err", err)
		}
	}()
	return a
}

// end ends the adoption of what has not been adopted yet.
func (a *adoption) end() {
	a.cancel()
	<-a.done
}

// wait waits for the adoption, but not for long. It tells how it went, for people.
func (a *adoption) wait() string {
	timer := time.NewTimer(adoptWait)
	defer timer.Stop()
	select {
	case <-a.done:
	case <-timer.C:
		return "; instances are still being adopted"
	}
	if a.left == 0 {
		return ""
	}
	return fmt.Sprintf("; %d of %d instances adopted", a.adopted, a.left)
}

func (n *node) adoptAll(ctx context.Context, adopter executor.Adopter) (left, adopted int, err error) {
	all, err := adopter.Left()
	if err != nil {
		return 0, 0, err
	}
	errs := make([]error, len(all))
	turns := make(chan struct{}, adopters)
	var adoptions sync.WaitGroup
	for i, l := range all {
		adoptions.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			errs[i] = n.adoptWanted(ctx, adopter, l)
		})
	}
	adoptions.Wait()
	for i, err := range errs {
		if err == nil {
			adopted++
			continue
		}
		n.notAdopted(all[i].ID, all[i].Revision, err)
	}
	return len(all), adopted, nil
}

// notAdopted notes the end of an instance of rev that is not adopted because of err.
func (n *node) notAdopted(id string, rev *lambent.Revision, err error) {
	e := lambent.SystemEvent{Kind: lambent.EventInstanceStopped, Reason: lambent.ReasonUnwanted, Text: lambent.ErrorOf(err).Message,
		Namespace: rev.Namespace, Function: rev.Function, Revision: rev.ID, Instance: id}
	if lambent.HasCode(err, lambent.CodeInstanceExited) { // while nobody was there
		e.Kind, e.Reason = lambent.EventInstanceExited, ""
	}
	n.event(e)
}

// adoptWanted adopts an instance if the function or an alias still refers to its revision and its secrets are what they
// were. If nothing does it takes down what the instance has written, and ends it.
func (n *node) adoptWanted(ctx context.Context, adopter executor.Adopter, left executor.Left) error {
	ctx, cancel := context.WithTimeout(ctx, adoptTime)
	defer cancel()
	rev, wanted := n.table.Revision(left.Revision.Namespace, left.Revision.Function, left.Revision.ID)
	if !wanted {
		rev = left.Revision
	}
	n.adopting.RLock()
	defer n.adopting.RUnlock()
	var secrets map[string]string
	if len(rev.Settings.Secrets) > 0 {
		var err error
		if secrets, err = n.values(ctx, rev); err != nil {
			return err
		}
	}
	if !left.Same(secrets) {
		return lambent.Errorf(lambent.CodeConflict, "a secret has changed that it was started with")
	}
	if !wanted {
		in, err := adopter.Adopt(ctx, executor.Spec{ID: left.ID, Revision: rev, Secrets: secrets, Log: n.past.line}, nil)
		if err == nil {
			in.Stop(0)
		}
		return lambent.Errorf(lambent.CodeNotFound, "nothing refers to its revision any more")
	}
	if err := n.adopt(ctx, left.ID, rev, nil); err != nil {
		return err
	}
	if _, wanted := n.table.Revision(rev.Namespace, rev.Function, rev.ID); !wanted { // it was retired meanwhile
		n.dispatch.Retire(rev)
	}
	return nil
}
