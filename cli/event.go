package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lambent"
	"lambent/client"
)

func (a *app) events() *cobra.Command {
	var q client.EventQuery
	var since time.Duration
	var system bool
	cmd := &cobra.Command{
		Use:   "events --system",
		Short: "Show what happened to the node and its instances",
		Args:  noArgs,
	}
	flags := cmd.Flags()
	flags.BoolVar(&system, "system", false, "the events of the node and its instances")
	flags.BoolVarP(&q.Follow, "follow", "f", false, "go on with new events until Ctrl-C")
	flags.IntVar(&q.Limit, "limit", 100, "how many of the latest events to begin with")
	flags.DurationVar(&since, "since", 0, "only events of the latest time, such as 10m")
	flags.StringVarP(&q.Namespace, "namespace", "n", "", "only of this namespace")
	flags.StringVar(&q.Function, "function", "", "only of the function of this name")
	flags.StringVar((*string)(&q.Kind), "kind", "", "only of this kind, such as instance.exited or circuit")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if !system {
			return usagef("say --system: the events of the node and its instances are the only ones that there are")
		}
		c, err := connect()
		if err != nil {
			return err
		}
		if since > 0 {
			q.Since = time.Now().Add(-since)
		}
		out := cmd.OutOrStdout()
		rows := [][]string{{"TIME", "KIND", "FUNCTION", "INSTANCE", "WHAT"}}
		live := q.Follow && !a.json
		if live {
			printEvent(out, rows[0])
		}
		for e, err := range c.SystemEvents(cmd.Context(), q) {
			switch {
			case err != nil:
				return err
			case a.json:
				if err := json.NewEncoder(out).Encode(e); err != nil {
					return err
				}
			case live:
				printEvent(out, columns(e))
			default:
				rows = append(rows, columns(e))
			}
		}
		if a.json || live {
			return nil
		}
		return table(out, rows...)
	}
	flag(cmd, "function", func(ctx context.Context, c *client.Client, _ []string, prefix string) []string {
		named := app{namespace: q.Namespace}
		return named.functionNames(ctx, c, nil, prefix)
	})
	flag(cmd, "kind", func(_ context.Context, _ *client.Client, _ []string, prefix string) []string {
		var kinds []string
		for _, k := range lambent.EventKinds {
			kinds = append(kinds, string(k))
		}
		return matching(kinds, prefix)
	})
	return cmd
}

func columns(e lambent.SystemEvent) []string {
	function := "-"
	if e.Function != "" {
		function = e.Namespace + "/" + e.Function
		if e.Revision != "" {
			function += "@" + e.Revision
		}
	}
	instance := e.Instance
	if instance == "" {
		instance = "-"
	}
	return []string{e.Time.Local().Format("2006-01-02 15:04:05.000"), string(e.Kind), function, instance, what(e)}
}

// what says in one line what happened.
func what(e lambent.SystemEvent) string {
	var parts []string
	add := func(text string) {
		if text != "" && !strings.Contains(strings.Join(parts, " "), text) {
			parts = append(parts, strings.Join(strings.Fields(text), " "))
		}
	}
	add(e.Text)
	if e.Exit != nil {
		add(e.Exit.String())
	}
	if total := e.Phases.Total(); total > 0 {
		add("ready in " + short(total))
	}
	if len(parts) == 0 {
		add(string(e.Reason))
	}
	return strings.Join(parts, "; ")
}

// printEvent prints the columns of one event at once, for who follows.
func printEvent(w io.Writer, columns []string) {
	fmt.Fprintf(w, "%-23s  %-16s  %-32s  %-16s  %s\n", columns[0], columns[1], columns[2], columns[3], columns[4])
}
