package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"lambent"
	"lambent/client"
)

const revisionHelp = "\n\nREVISION is the id of a revision, the number of a published version, or an alias, which stands for\nthe one revision that it points to now."

func (a *app) alias() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "alias",
		Short: "Set, list and remove the aliases of a function",
		Args:  unknownCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.aliasSet(), a.aliasList(), a.aliasRemove())
	return cmd
}

func (a *app) aliasSet() *cobra.Command {
	var sticky string
	cmd := &cobra.Command{
		Use:   "set NAME ALIAS REVISION[=WEIGHT]...",
		Short: "Point an alias to a revision, or to several by weight",
		Long: "Point an alias to a revision, or to several by weight. Call it as NAME:ALIAS, and at /fn/NAME:ALIAS/.\n\n" +
			"The alias moves when each of the revisions is ready; if one does not get ready it stays as it was." + revisionHelp,
		Example: "  lambent alias set hello prod 3\n  lambent alias set hello prod 3=90 latest=10 --sticky header:X-User",
		Args: func(cmd *cobra.Command, args []string) error {
			return arg("function", "alias", "revision")(cmd, args[:min(len(args), 3)])
		},
	}
	cmd.Flags().StringVar(&sticky, "sticky", "", "send requests with the same key to the same revision: `header:NAME` or query:NAME")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		set := client.SetAlias{Namespace: a.namespace, Function: args[0], Name: args[1], Sticky: sticky}
		for _, target := range args[2:] {
			revision, weight, weighted := strings.Cut(target, "=")
			w := lambent.Weight{Revision: revision, Weight: 1}
			if weighted {
				var err error
				if w.Weight, err = strconv.Atoi(weight); err != nil {
					return usagef("%q is not of the form REVISION or REVISION=WEIGHT", target)
				}
			}
			set.Targets = append(set.Targets, w)
		}
		return a.printAlias(cmd, func(ctx context.Context, c *client.Client) (*lambent.Alias, error) { return c.SetAlias(ctx, set) })
	}
	return a.inNamespace(cmd)
}

func (a *app) aliasList() *cobra.Command {
	cmd := &cobra.Command{Use: "ls NAME", Short: "List the aliases of a function, the published versions too", Args: arg("function")}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		aliases, err := c.Aliases(cmd.Context(), a.namespace, args[0])
		if err != nil {
			return err
		}
		if a.json {
			printJSON(cmd.OutOrStdout(), map[string]any{"aliases": aliases})
			return nil
		}
		rows := [][]string{{"ALIAS", "REVISION", "STICKY", "UPDATED"}}
		for _, alias := range aliases {
			rows = append(rows, []string{alias.Name, targets(alias), cmp.Or(alias.Sticky, "-"), when(alias.Updated)})
		}
		return table(cmd.OutOrStdout(), rows...)
	}
	return a.inNamespace(cmd)
}

func (a *app) aliasRemove() *cobra.Command {
	cmd := &cobra.Command{Use: "rm NAME ALIAS", Short: "Remove an alias; its revisions stay", Args: arg("function", "alias")}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		if err := c.DeleteAlias(cmd.Context(), a.namespace, args[0], args[1], 0); err != nil {
			return err
		}
		if a.json {
			printJSON(cmd.OutOrStdout(), map[string]string{"namespace": a.namespace, "function": args[0], "name": args[1]})
			return nil
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s/%s:%s is removed\n", a.namespace, args[0], args[1])
		return err
	}
	return a.inNamespace(cmd)
}

func (a *app) publish() *cobra.Command {
	var revision string
	cmd := &cobra.Command{
		Use:   "publish NAME",
		Short: "Give a revision a number that never moves",
		Long:  "Give a revision the next number, which never moves. A revision that has one keeps it." + revisionHelp,
		Args:  arg("function"),
	}
	cmd.Flags().StringVar(&revision, "revision", lambent.LatestAlias, "what to publish")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.printAlias(cmd, func(ctx context.Context, c *client.Client) (*lambent.Alias, error) {
			return c.Publish(ctx, a.namespace, args[0], revision)
		})
	}
	return a.inNamespace(cmd)
}

func (a *app) rollback() *cobra.Command {
	var alias string
	cmd := &cobra.Command{
		Use:   "rollback NAME",
		Short: "Move an alias back to what it pointed to before its last move",
		Long:  "Move an alias back to what it pointed to before its last move. A second rollback undoes the first.",
		Args:  arg("function"),
	}
	cmd.Flags().StringVar(&alias, "alias", lambent.LatestAlias, "the alias to move")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.printAlias(cmd, func(ctx context.Context, c *client.Client) (*lambent.Alias, error) {
			return c.Rollback(ctx, a.namespace, args[0], alias, 0)
		})
	}
	return a.inNamespace(cmd)
}

// printAlias prints the alias that do gives.
func (a *app) printAlias(cmd *cobra.Command, do func(context.Context, *client.Client) (*lambent.Alias, error)) error {
	c, err := connect()
	if err != nil {
		return err
	}
	alias, err := do(cmd.Context(), c)
	if err != nil {
		return err
	}
	if a.json {
		printJSON(cmd.OutOrStdout(), alias)
		return nil
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s/%s:%s is revision %s\n", alias.Namespace, alias.Function, alias.Name, targets(alias))
	return err
}

// targets is what `alias set` takes.
func targets(alias *lambent.Alias) string {
	if len(alias.Targets) == 1 {
		return alias.Targets[0].Revision.ID
	}
	var out []string
	for _, w := range alias.Weights() {
		out = append(out, fmt.Sprintf("%s=%d", w.Revision, w.Weight))
	}
	return strings.Join(out, " ")
}

func (a *app) diff() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "diff NAME REVISION REVISION",
		Short: "Show how two revisions differ: settings, packages, files, names in the environment",
		Long:  "Show how two revisions differ: settings, files of the code, and the names, never the values, in the environment." + revisionHelp,
		Args:  arg("function", "first revision", "second revision"),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		d, err := c.Diff(cmd.Context(), a.namespace, args[0], args[1], args[2])
		if err != nil {
			return err
		}
		if a.json {
			printJSON(cmd.OutOrStdout(), d)
			return nil
		}
		return printDiff(cmd.OutOrStdout(), d)
	}
	return a.inNamespace(cmd)
}

func printDiff(w io.Writer, d *lambent.Diff) error {
	if d.From.ID == d.To.ID {
		_, err := fmt.Fprintf(w, "both are revision %s\n", d.From.ID)
		return err
	}
	rows := [][]string{{"revision", d.From.ID, d.To.ID}, {"created", when(d.From.Created), when(d.To.Created)}}
	if d.From.Root != d.To.Root {
		rows = append(rows, []string{"root", d.From.Root, d.To.Root})
	}
	for _, s := range d.Settings {
		rows = append(rows, []string{s.Field, value(s.From), value(s.To)})
	}
	if err := table(w, rows...); err != nil {
		return err
	}
	rows = nil
	for _, env := range []struct {
		mark  string
		names []string
	}{{"+", d.Env.Added}, {"-", d.Env.Removed}, {"~", d.Env.Changed}} {
		for _, name := range env.names {
			rows = append(rows, []string{env.mark, "env " + name})
		}
	}
	for _, p := range d.Dependencies {
		switch {
		case p.From == "":
			rows = append(rows, []string{"+", "package " + p.Name, p.To})
		case p.To == "":
			rows = append(rows, []string{"-", "package " + p.Name, p.From})
		default:
			rows = append(rows, []string{"~", "package " + p.Name, p.From + " -> " + p.To})
		}
	}
	inPackages := map[string]int{}
	for _, f := range d.Files {
		if folder, ok := packagesOf(f.Path); ok {
			inPackages[folder]++
			continue
		}
		switch {
		case f.From == nil:
			rows = append(rows, []string{"+", f.Path, file(f.To)})
		case f.To == nil:
			rows = append(rows, []string{"-", f.Path, file(f.From)})
		default:
			rows = append(rows, []string{"~", f.Path, file(f.From) + " -> " + file(f.To)})
		}
	}
	for _, folder := range slices.Sorted(maps.Keys(inPackages)) {
		rows = append(rows, []string{"~", folder, fmt.Sprintf("%d files", inPackages[folder])})
	}
	if len(rows) > 0 {
		fmt.Fprintln(w)
	}
	return table(w, rows...)
}

// packagesOf gives the folder of packages that a file is in; nobody reads a list of thousands.
func packagesOf(path string) (folder string, ok bool) {
	folder, _, ok = strings.Cut(path, "/")
	return folder + "/", ok && (folder == "node_modules" || folder == "site-packages")
}

// value is a setting as people write it.
func value(v any) string {
	switch v := v.(type) {
	case nil:
		return "-"
	case string:
		return v
	}
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err) // it came as JSON
	}
	return string(raw)
}

func file(f *lambent.CodeFile) string {
	if f.Link != "" {
		return "link to " + f.Link
	}
	digest := strings.TrimPrefix(f.Digest, "sha256:")
	out := fmt.Sprintf("%d bytes %s", f.Size, digest[:min(12, len(digest))])
	if f.Executable {
		out += " executable"
	}
	return out
}
