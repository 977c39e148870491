package daemon

import (
	"errors"
	"maps"
	"slices"

	"lambent"
	"lambent/executor"
	"lambent/executor/wasm"
)

// Main is the first call of a program that runs a daemon: where it was started as a part of a tier it is that, and Main
// does not return.
func Main() { wasm.Main() }

// tiers are the node's executors by tier. To those who ask what the node can run they are one: each runtime has
// its tier.
type tiers map[string]executor.Executor

// Root is that of the executor of the runtime's tier; see [executor.Executor].
func (t tiers) Root(runtime string) (string, error) {
	rt, ok := lambent.RuntimeOf(runtime)
	if e := t[rt.Tier]; ok && e != nil {
		return e.Root(runtime)
	}
	return "", lambent.Errorf(lambent.CodeTierUnavailable, "this node cannot run %s", runtime)
}

// Runtimes are those of all executors.
func (t tiers) Runtimes() (all []string) {
	for _, tier := range slices.Sorted(maps.Keys(t)) {
		all = append(all, t[tier].Runtimes()...)
	}
	return all
}

// Isolation is that of a tier's executor.
func (t tiers) Isolation(tier string) lambent.Isolation {
	if e := t[tier]; e != nil {
		return e.Isolation()
	}
	return lambent.Isolation{Level: lambent.IsolationNone}
}

func (t tiers) findings() (all []lambent.Finding) {
	for _, tier := range slices.Sorted(maps.Keys(t)) {
		all = append(all, t[tier].Findings()...)
	}
	return all
}

// close closes them in the order of their names, the last first: workers of the tier wasm run in the tier process.
func (t tiers) close() error {
	var errs []error
	for _, tier := range slices.Backward(slices.Sorted(maps.Keys(t))) {
		errs = append(errs, t[tier].Close())
	}
	return errors.Join(errs...)
}
