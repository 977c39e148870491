// Command chaos breaks Lambent on purpose, under load, and counts on both sides what comes of it; soak lets it live
// through much of everything. It runs in the repository root as root, after make build:
//
//	go run ./test/chaos [-short] upgrade|deploy|kill|crash|disk|soak...
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// scenarios by their names.
var scenarios = []struct {
	name string
	run  func(ctx context.Context, short bool) error
}{
	{"upgrade", upgrades},
	{"deploy", deploys},
	{"kill", kills},
	{"crash", crashes},
	{"disk", fullDisk},
	{"soak", soak},
}

func main() {
	short := flag.Bool("short", false, "a few seconds each, for CI")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var names, failed []string
	for _, s := range scenarios {
		names = append(names, s.name)
	}
	for _, arg := range flag.Args() {
		i := slices.Index(names, arg)
		if i < 0 {
			fmt.Fprintf(os.Stderr, "chaos: there is no %q, but %s\n", arg, strings.Join(names, ", "))
			os.Exit(2)
		}
		fmt.Printf("\n== chaos: %s\n", arg)
		if err := scenarios[i].run(ctx, *short); err != nil {
			fmt.Fprintf(os.Stderr, "chaos: %s: %v\n", arg, err)
			failed = append(failed, arg)
		}
	}
	if len(failed) > 0 {
		os.Exit(1)
	}
}
