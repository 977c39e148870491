package daemon

import (
	"context"
	"os"

	"lambent"
	"lambent/builder"
	"lambent/builder/golang"
	nodejs "lambent/builder/node" // node is taken
	"lambent/builder/python"
	"lambent/builder/wasm"
	"lambent/executor"
)

func (n *node) openBuilds(runner executor.Runner) (err error) {
	env, refused := builder.Environment(os.Environ())
	for _, name := range refused {
		n.log.Warn("builds do not get a setting of the environment: it holds a password, or is no URL", "name", name)
	}
	n.builds, err = builder.New(builder.Options{
		Dir: n.cfg.path("layers"), Code: n.code, Runner: runner, Root: n.tiers.Root, Egress: n.cfg.BuildEgress, Env: env, Logger: n.log,
		Builders: map[string]builder.Builder{
			"python3.": python.Builder{}, "nodejs": nodejs.Builder{}, "go": golang.Builder{}, "wasm": wasm.Builder{},
			"http": nodejs.Builder{}, "exec": nodejs.Builder{}, // node_modules is found by any program; packages of Python are not
		},
	})
	return err
}

// build builds until the node stops: nobody deploys what is built then.
func (n *node) build(ctx context.Context, namespace string, b lambent.Build, log func(string)) (*lambent.Built, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(n.stopping, cancel)()
	built, err := n.builds.Build(ctx, namespace, b, log)
	if err != nil && n.stopping.Err() != nil {
		return nil, lambent.Errorf(lambent.CodeShuttingDown, "this node is stopping: %w", err)
	}
	return built, err
}

func (n *node) findings() []lambent.Finding {
	return append(append(n.tiers.findings(), n.builds.Findings()...), n.diskFinding())
}
