package cli

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"lambent"
	"lambent/client"
)

func (a *app) route() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "route",
		Short: "Set, list and remove routes from hosts and paths to functions",
		Args:  unknownCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.routeSet(), a.routeList(), a.routeRemove())
	return cmd
}

func (a *app) routeSet() *cobra.Command {
	var spec lambent.RouteSpec
	cmd := &cobra.Command{
		Use:   "set NAME --host HOST --path PATH FUNCTION[:ALIAS]",
		Short: "Route requests by host, path and method to a function",
		Long: "Route requests by host, path and method to a function.\n\n" +
			"HOST is a name, or *.NAME for all names below it. PATH may have parameters: {id} stands for one segment, {rest...} at the\n" +
			"end for all that follow. The most specific host and path decide. The function sees the whole path, and the parameters\n" +
			"as pathParameters of its event.",
		Example: "  lambent route set users --host api.example.com --path /users/{id} --method GET --method PUT users\n" +
			"  lambent route set site --host www.example.com --path '/{rest...}' site:prod",
		Args: arg("route", "function"),
	}
	flags := cmd.Flags()
	flags.StringVar(&spec.Host, "host", "", "host; every host when absent, which takes the node's admin key, as *.NAME does")
	flags.StringVar(&spec.Path, "path", "", "path, such as /users/{id} or /files/{rest...}")
	flags.StringArrayVar(&spec.Methods, "method", nil, "method, all when absent; may be given again")
	flags.BoolVar(&spec.Strip, "strip", false, "let the function see what {rest...} stands for as its path")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if spec.Path == "" {
			return usagef("say which: --path is missing")
		}
		for i, m := range spec.Methods {
			spec.Methods[i] = strings.ToUpper(m)
		}
		spec.Function, spec.Alias, _ = strings.Cut(args[1], ":")
		c, err := connect()
		if err != nil {
			return err
		}
		r, err := c.SetRoute(cmd.Context(), client.SetRoute{Namespace: a.namespace, Name: args[0], Spec: spec})
		if err != nil {
			return err
		}
		if a.json {
			printJSON(cmd.OutOrStdout(), r)
			return nil
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s/%s is %s to %s:%s\n", r.Namespace, r.Name, r, r.Function, r.Alias)
		return err
	}
	return a.inNamespace(cmd)
}

func (a *app) routeList() *cobra.Command {
	cmd := &cobra.Command{Use: "ls", Short: "List the routes of a namespace", Args: noArgs}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		routes, err := c.Routes(cmd.Context(), a.namespace)
		if err != nil {
			return err
		}
		if a.json {
			printJSON(cmd.OutOrStdout(), map[string]any{"routes": routes})
			return nil
		}
		rows := [][]string{{"NAME", "HOST", "PATH", "METHODS", "FUNCTION", "UPDATED"}}
		for _, r := range routes {
			rows = append(rows, []string{r.Name, cmp.Or(r.Host, "*"), r.Path, cmp.Or(strings.Join(r.Methods, ","), "ANY"), r.Function + ":" + r.Alias, when(r.Updated)})
		}
		return table(cmd.OutOrStdout(), rows...)
	}
	return a.inNamespace(cmd)
}

func (a *app) routeRemove() *cobra.Command {
	cmd := &cobra.Command{Use: "rm NAME", Short: "Remove a route", Args: arg("route")}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		if err := c.DeleteRoute(cmd.Context(), a.namespace, args[0], 0); err != nil {
			return err
		}
		return a.printRemoved(cmd, args[0])
	}
	return a.inNamespace(cmd)
}
