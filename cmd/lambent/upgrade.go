package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"lambent/daemon"
)

func upgrade() *cobra.Command {
	var data string
	var o daemon.UpgradeOptions
	cmd := &cobra.Command{
		Use:   "upgrade [BINARY]",
		Short: "Have a running node replaced by another program, without losing a request",
		Long: `Have the node of "lambent up" on this machine replaced by the program BINARY, or by what is now in the place of its own
program, without losing a request.

The new process gets the arguments of the one before, its listeners and its instances. The one before goes on to serve
what it has begun, and ends then. If the new one does not come to serve, the one before goes on as if nothing had been.
SIGUSR2 does the same as this command without BINARY; the log tells the outcome.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if data == "" {
				if data, err = defaultData(); err != nil {
					return err
				}
			}
			if len(args) > 0 {
				if o.Binary, err = filepath.Abs(args[0]); err != nil {
					return err
				}
			}
			asJSON, err := cmd.Flags().GetBool("json")
			if err != nil {
				return err
			}
			now, err := daemon.Upgrade(cmd.Context(), data, o, func(step string) {
				fmt.Fprintln(cmd.ErrOrStderr(), step)
			})
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(now)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "lambent %s serves, process %d\n", now.Version, now.PID)
			return err
		},
	}
	cmd.Flags().StringVar(&data, "data", "", "folder of the node (default $XDG_DATA_HOME/lambent)")
	cmd.Flags().DurationVar(&o.Step, "step", time.Minute, "how long each step may take before all goes on as it was")
	return cmd
}
