package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"lambent"
	"lambent/client"
	"lambent/internal/changes"
)

// Engine starts a platform of its own for a command and gives where its control API is. Wait, which is there after
// an error, too, returns when it has ended, as it does soon after ctx.
type Engine func(ctx context.Context) (url, key string, wait func() error, err error)

// Dev makes the command `lambent dev`, which runs a directory on an engine while it is worked on.
func Dev(start Engine) *cobra.Command {
	a := &app{}
	cmd := &cobra.Command{
		Use:   "dev DIR",
		Short: "Run a directory while you work on it: deployed again at every save, its log in the terminal",
		Long: "Run a directory while you work on it, on a platform of its own that is gone afterwards.\n\n" +
			"It is the platform that `lambent up` runs, with the same sandbox. The function is deployed again whenever a file\n" +
			"of the directory changes; while a change does not work, the revision before serves. What the function writes\n" +
			"comes to stdout, what becomes of deploys to stderr.",
		Args: arg("directory"),
	}
	o := a.overrides(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if info, err := os.Stat(args[0]); err != nil || !info.IsDir() {
			return usagef("%s is no directory", args[0])
		}
		ctx, cancel := context.WithCancel(cmd.Context())
		url, key, wait, err := start(ctx)
		defer func() {
			cancel()
			err = errors.Join(err, wait())
		}()
		if err != nil {
			return err
		}
		// This process works for the engine alone from here on.
		if err := errors.Join(os.Setenv("LAMBENT_URL", url), os.Setenv("LAMBENT_KEY", key)); err != nil {
			return err
		}
		d := &dev{app: a, cmd: cmd, dir: args[0], overrides: o, out: cmd.OutOrStdout()}
		return d.run(ctx)
	}
	return a.inNamespace(cmd)
}

// dev is one run of `lambent dev`.
type dev struct {
	*app
	*overrides
	cmd       *cobra.Command
	dir       string
	out       io.Writer
	function  string // its name once it was deployed
	revision  string
	followers sync.WaitGroup
}

// quiet is how long nothing must change before a deploy: editors and tools write several files.
const quiet = 100 * time.Millisecond

func (d *dev) run(ctx context.Context) error {
	defer d.followers.Wait()
	d.deploy(ctx, "")
	for path, err := range changes.Of(ctx, d.dir, quiet, notCode) {
		if err != nil {
			return lambent.Errorf(lambent.CodeInvalidRequest, "cannot watch %s: %w", d.dir, err).
				WithHint("is fs.inotify.max_user_watches too low for it?")
		}
		d.deploy(ctx, path)
	}
	return nil
}

// notCode tells the names that tools write into a directory without a change to the code.
func notCode(name string) bool {
	return strings.HasPrefix(name, ".") || strings.HasSuffix(name, "~") || slices.Contains([]string{"node_modules", "__pycache__", "4913"}, name)
}

// deploy deploys the directory and says what became of it: a mistake in the code is none of the command.
func (d *dev) deploy(ctx context.Context, changed string) {
	w := d.cmd.ErrOrStderr()
	at := time.Now().Format("15:04:05")
	if changed != "" {
		fmt.Fprintf(w, "%s %s changed\n", at, changed)
	}
	deployed, err := d.push(ctx)
	if err != nil {
		if ctx.Err() == nil {
			printError(w, lambent.ErrorOf(err))
		}
		return
	}
	f := deployed.Function
	if f.Latest.ID == d.revision {
		return
	}
	fmt.Fprintf(w, "%s revision %s is ready in %s: %s\n", time.Now().Format("15:04:05"), f.Latest.ID, short(deployed.Phases.Total()), deployed.URL)
	d.revision = f.Latest.ID
	if d.function == "" {
		d.function = f.Name
		d.followers.Go(func() { d.follow(ctx, f.Namespace) })
	}
}

func (d *dev) push(ctx context.Context) (*client.Deployment, error) {
	m, err := d.manifestFor(d.cmd, d.dir, d.overrides)
	if err != nil {
		return nil, err
	}
	if d.function != "" {
		m.Name = d.function // the logs of this one are followed
	}
	d.cmd.SetContext(ctx)
	return d.app.push(d.cmd, d.dir, m, d.noBuild)
}

// follow prints what the function writes.
func (d *dev) follow(ctx context.Context, namespace string) {
	c, err := connect()
	if err != nil {
		printError(d.cmd.ErrOrStderr(), lambent.ErrorOf(err))
		return
	}
	for line, err := range c.Logs(ctx, namespace, d.function, client.LogQuery{Tail: -1, Follow: true}) {
		if err == nil {
			err = d.printLine(d.out, line)
		}
		if err != nil {
			if ctx.Err() == nil {
				printError(d.cmd.ErrOrStderr(), lambent.ErrorOf(err))
			}
			return
		}
	}
}
