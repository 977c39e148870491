// Command lambent is the platform and its command line in one binary: `lambent up` runs a node, every
// other command speaks to one over HTTP.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"lambent/cli"
	"lambent/daemon"
)

var version = "dev" // set by the linker

func main() {
	daemon.Main()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	root := cli.New(up(), dev(), upgrade())
	root.Version = version
	os.Exit(cli.Run(ctx, root))
}
