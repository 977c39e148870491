// Command bench measures Lambent against the figures that it promises, on this machine, side by side with
// what it is compared to. It runs in the repository root, after make build:
//
//	go run ./test/bench [-short] warm|cold|scale|deploy|wasm
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"lambent/test/measure"
)

func main() {
	if len(os.Args) == 5 && os.Args[1] == proxyCommand {
		exit(serveProxy(os.Args[2], os.Args[3], os.Args[4]))
	}
	short := flag.Bool("short", false, "fewer rounds, for CI")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch flag.Arg(0) {
	case "warm":
		exit(measured(ctx, *short, warm))
	case "cold":
		exit(measured(ctx, *short, cold))
	case "scale":
		exit(scale(ctx, *short))
	case "deploy":
		exit(measured(ctx, *short, deploys))
	case "wasm":
		exit(measured(ctx, *short, wasm))
	}
	fmt.Fprintln(os.Stderr, "usage: bench [-short] warm|cold|scale|deploy|wasm")
	os.Exit(2)
}

// measured runs f with a new daemon.
func measured(ctx context.Context, short bool, f func(ctx context.Context, l *measure.Daemon, dir string, short bool) error) error {
	return measure.With(ctx, func(ctx context.Context, l *measure.Daemon, dir string) error { return f(ctx, l, dir, short) })
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}
