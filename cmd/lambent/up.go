package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"lambent"
	"lambent/builder"
	"lambent/cli"
	"lambent/daemon"
	"lambent/internal/handover"
	"lambent/internal/keypair"
)

func up() *cobra.Command {
	cfg := daemon.Config{}
	var certs, keys []string
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run a node: functions, control API and store in this process",
		Long: `Run a node: functions, control API and store in this process, until Ctrl-C or SIGTERM.
It then ends what is under way, within 45 seconds; a second one ends it at once.

The first start makes an admin key in DIR/admin.key; the addresses that it listens on are written to
DIR/endpoints.json, and the context that the other commands use to the user's configuration.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.Data == "" {
				dir, err := defaultData()
				if err != nil {
					return err
				}
				cfg.Data = dir
			}
			if len(certs) != len(keys) {
				return lambent.Errorf(lambent.CodeInvalidRequest, "%d of --tls-cert, but %d of --tls-key", len(certs), len(keys)).WithHint("give each certificate the file of its key")
			}
			for i := range certs {
				cert, err := filepath.Abs(certs[i]) // it is named to the other commands
				if err != nil {
					return err
				}
				cfg.TLS = append(cfg.TLS, keypair.Files{Cert: cert, Key: keys[i]})
			}
			for _, rule := range cfg.BuildEgress {
				if _, err := lambent.ParseEgress(rule); err != nil {
					return lambent.Errorf(lambent.CodeInvalidRequest, "--build-egress: %w", err)
				}
			}
			data, err := filepath.Abs(cfg.Data)
			if err != nil {
				return err
			}
			asJSON, err := cmd.Flags().GetBool("json")
			if err != nil {
				return err
			}
			if cfg.Before, err = handover.Inherited(); err != nil {
				return err
			}
			cfg.Data, cfg.Version, cfg.Args = data, version, os.Args[1:]
			cfg.Logger = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			cfg.Serving = func(e daemon.Endpoints) {
				if err := announce(cmd.OutOrStdout(), e, asJSON); err != nil {
					cfg.Logger.Warn("the other commands need LAMBENT_URL and LAMBENT_KEY", "err", err)
				}
			}
			cfg.Hurry = hurry()
			return daemon.Run(cmd.Context(), cfg)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&cfg.Data, "data", "", "folder of everything that is kept (default $XDG_DATA_HOME/lambent)")
	flags.StringVar(&cfg.Listen, "listen", "127.0.0.1:8080", "address for functions")
	flags.StringVar(&cfg.Control, "control", "127.0.0.1:8081", "address of the control API")
	flags.StringArrayVar(&certs, "tls-cert", nil, "PEM `FILE` of a certificate and its chain: functions are served by TLS, the control API too unless on loopback; may be repeated")
	flags.StringArrayVar(&keys, "tls-key", nil, "PEM `FILE` of the key of the certificate in the same place; may be repeated")
	flags.StringArrayVar(&cfg.BuildEgress, "build-egress", builder.AnyHost, "`HOST:PORT` that builds may connect to for packages; may be repeated")
	permitFlag(cmd, &cfg)
	flags.BoolVar(&cfg.Unsandboxed, "unsandboxed", false, "run functions without a sandbox where none can be made: trust them all")
	flags.BoolVar(&cfg.AcceptLoss, "accept-data-loss", false, "start although the store lost acknowledged writes")
	return cmd
}

// permitFlag gives cmd the flag for cfg.EgressPermit.
func permitFlag(cmd *cobra.Command, cfg *daemon.Config) {
	const usage = "private `network` that egress rules of functions may allow, such as 10.1.0.0/16 or 127.0.0.1/32; may be repeated"
	cmd.Flags().Func("egress-permit", usage, func(text string) error {
		prefix, err := netip.ParsePrefix(text)
		if err == nil {
			cfg.EgressPermit = append(cfg.EgressPermit, prefix)
		}
		return err
	})
}

func defaultData() (string, error) {
	if dir := os.Getenv("XDG_DATA_HOME"); dir != "" {
		return filepath.Join(dir, "lambent"), nil
	}
	home, err := os.UserHomeDir()
	return filepath.Join(home, ".local", "share", "lambent"), err
}

// announce says where things are; its last line begins with "serving", for scripts that wait for it.
func announce(w io.Writer, e daemon.Endpoints, asJSON bool) error {
	path, failed := cli.WriteContext(e.Control, e.KeyFile, e.CAFile)
	if failed != nil {
		failed = fmt.Errorf("the CLI's context is not written: %w", failed)
	}
	if asJSON {
		return errors.Join(failed, json.NewEncoder(w).Encode(e))
	}
	if e.NewKey {
		fmt.Fprintf(w, "made an admin key in %s\n", e.KeyFile)
	}
	if failed == nil {
		fmt.Fprintf(w, "wrote the context of the other commands to %s\n", path)
	}
	_, err := fmt.Fprintf(w, "serving functions at %s, control API at %s\n", e.Functions, e.Control)
	return errors.Join(failed, err)
}
