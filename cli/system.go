package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"lambent"
)

func (a *app) doctor() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Tell what the platform found of what it needs",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			s, err := c.System(cmd.Context())
			if err != nil {
				return err
			}
			bad := 0
			var rows [][]string
			for i, f := range s.Findings {
				mark := "ok"
				if !f.OK {
					mark = "BAD"
					bad++
				}
				rows = append(rows, []string{mark, f.Name, f.Detail})
				if f.Hint != "" {
					rows = append(rows, []string{"", "", "hint: " + f.Hint})
				}
				if i == 0 { // how functions are isolated comes before everything
					rows = append(rows,
						[]string{"", "lambent", fmt.Sprintf("%s at %s", s.Version, c.URL())},
						[]string{"", "functions", s.Functions},
						[]string{"", "runtimes", strings.Join(s.Runtimes, ", ")})
				}
			}
			if a.json {
				printJSON(cmd.OutOrStdout(), s)
			} else if err := table(cmd.OutOrStdout(), rows...); err != nil {
				return err
			}
			if bad > 0 {
				return exitError(exitCode(lambent.FaultPlatform))
			}
			return nil
		},
	}
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if a.json {
				printJSON(cmd.OutOrStdout(), map[string]string{"version": cmd.Root().Version})
				return nil
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "lambent %s\n", cmd.Root().Version)
			return err
		},
	}
}
