package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"lambent/cli"
	"lambent/daemon"
)

// dev is `lambent dev`: a daemon whose data is gone afterwards, and a function on it.
func dev() *cobra.Command {
	cfg := daemon.Config{Control: "127.0.0.1:0", Version: version}
	cmd := cli.Dev(func(ctx context.Context) (url, key string, wait func() error, err error) {
		if cfg.Data, err = os.MkdirTemp("", "lambent-dev-"); err != nil {
			return "", "", func() error { return nil }, err
		}
		cfg.Logger, cfg.Hurry = slog.New(slog.DiscardHandler), hurry()
		serving, ended := make(chan daemon.Endpoints, 1), make(chan error, 1)
		cfg.Serving = func(e daemon.Endpoints) { serving <- e }
		go func() { ended <- errors.Join(daemon.Run(ctx, cfg), os.RemoveAll(cfg.Data)) }()
		wait = func() error { return <-ended }
		select {
		case e := <-serving:
			raw, err := os.ReadFile(e.KeyFile)
			return e.Control, strings.TrimSpace(string(raw)), wait, err
		case err := <-ended:
			return "", "", func() error { return nil }, err
		}
	})
	cmd.Flags().StringVar(&cfg.Listen, "listen", "127.0.0.1:8080", "address for functions")
	permitFlag(cmd, &cfg)
	return cmd
}
