package daemon

import (
	"context"

	"lambent"
	"lambent/executor"
)

// adopt answers for an instance that another process has started.
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
	return n.dispatch.Adopt(rev, inst, inFlight)
}

func (n *node) sweep() error {
	if adopter, ok := n.runner.(executor.Adopter); ok {
		return adopter.Sweep()
	}
	return nil
}
