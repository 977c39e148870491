package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lambent"
)

func (a *app) list() *cobra.Command {
	var namespace string
	cmd := &cobra.Command{Use: "ls", Short: "List the functions", Args: noArgs}
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "only of this namespace")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		functions := []*lambent.Function{}
		for f, err := range c.Functions(cmd.Context(), namespace) {
			if err != nil {
				return err
			}
			functions = append(functions, f)
		}
		if a.json {
			printJSON(cmd.OutOrStdout(), map[string]any{"functions": functions})
			return nil
		}
		rows := [][]string{{"NAMESPACE", "NAME", "RUNTIME", "REVISION", "UPDATED"}}
		for _, f := range functions {
			rows = append(rows, []string{f.Namespace, f.Name, f.Latest.Settings.Runtime, f.Latest.ID, when(f.Updated)})
		}
		return table(cmd.OutOrStdout(), rows...)
	}
	return cmd
}

func when(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

func (a *app) get() *cobra.Command {
	cmd := &cobra.Command{Use: "get NAME", Short: "Show a function, its settings and revisions", Args: arg("function")}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		f, err := c.Function(cmd.Context(), a.namespace, args[0])
		if err != nil {
			return err
		}
		revisions, err := c.Revisions(cmd.Context(), a.namespace, args[0])
		if err != nil {
			return err
		}
		if a.json {
			printJSON(cmd.OutOrStdout(), map[string]any{"function": f, "revisions": revisions})
			return nil
		}
		return printFunction(cmd.OutOrStdout(), f, revisions)
	}
	return a.inNamespace(cmd)
}

// isolation is as the node says it; one before this version says nothing.
func isolation(f *lambent.Function) string {
	if f.Isolation == nil {
		return ""
	}
	return f.Isolation.String()
}

// circuit tells why a function is not started any more.
func circuit(f *lambent.Function) string {
	if f.Circuit == nil {
		return "closed"
	}
	return "open: " + f.Circuit.Message
}

func printFunction(w io.Writer, f *lambent.Function, revisions []*lambent.Revision) error {
	s := f.Latest.Settings
	err := table(w,
		[]string{"function", f.Namespace + "/" + f.Name},
		[]string{"version", fmt.Sprint(f.Version)},
		[]string{"updated", when(f.Updated)},
		[]string{"code", f.Latest.Code},
		[]string{"runs", fmt.Sprintf("%s, handler %s, tier %s", s.Runtime, s.Handler, s.Tier)},
		[]string{"isolation", isolation(f)},
		[]string{"circuit", circuit(f)},
		[]string{"limits", fmt.Sprintf("%d MiB, %.2f cores, %d processes", s.Memory, float64(s.CPU)/1000, s.Pids)},
		[]string{"scale", fmt.Sprintf("%d at a time in each of up to %d instances, kept for %s", s.Concurrency, s.MaxInstances, s.KeepAlive)},
		[]string{"timeouts", fmt.Sprintf("queue %s, first byte %s, idle %s, total %s", s.Timeouts.Queue, s.Timeouts.FirstByte, s.Timeouts.Idle, s.Timeouts.Total)},
	)
	if err != nil {
		return err
	}
	rows := [][]string{{"", "REVISION", "CREATED", "CODE"}}
	for _, r := range revisions {
		mark := ""
		if r.ID == f.Latest.ID {
			mark = "*"
		}
		code := strings.TrimPrefix(r.Code, "sha256:")
		rows = append(rows, []string{mark, r.ID, when(r.Created), code[:min(12, len(code))]})
	}
	fmt.Fprintln(w)
	return table(w, rows...)
}

func (a *app) remove() *cobra.Command {
	cmd := &cobra.Command{Use: "rm NAME", Short: "Remove a function, its revisions, aliases and logs", Args: arg("function")}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		if err := c.Delete(cmd.Context(), a.namespace, args[0], 0); err != nil {
			return err
		}
		return a.printRemoved(cmd, args[0])
	}
	return a.inNamespace(cmd)
}
