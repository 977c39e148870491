package cli

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lambent/client"
)

const (
	// completionTime bounds how long a shell waits for the platform.
	completionTime = time.Second
	// maxCompletions is more than anybody reads.
	maxCompletions = 200
)

// source gives what an argument may be that begins with prefix; args are those before it. What cannot be found out is left
// out: a shell has no place for errors.
type source func(ctx context.Context, c *client.Client, args []string, prefix string) []string

// completions lets shells complete the arguments of root's commands by what the platform has.
func (a *app) completions(root *cobra.Command) {
	for name, sources := range map[string][]source{
		"get": {a.functionNames}, "rm": {a.functionNames}, "logs": {a.functionNames}, "publish": {a.functionNames}, "rollback": {a.functionNames},
		"invoke": {a.callees}, "diff": {a.functionNames, a.aliasNames, a.aliasNames},
		"alias set": {a.functionNames, a.aliasNames, a.aliasNames}, "alias ls": {a.functionNames}, "alias rm": {a.functionNames, a.aliasNames},
		"route set": {a.routeNames, a.callees}, "route rm": {a.routeNames},
		"secret set": {a.secretNames}, "secret rm": {a.secretNames},
		"ls": nil, "route ls": nil, "secret ls": nil, "doctor": nil, "version": nil, "why": nil, "events": nil,
	} {
		cmd, _, err := root.Find(strings.Fields(name))
		if err != nil {
			panic(err) // this list names a command that is not there
		}
		cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
			if len(args) >= len(sources) {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return complete(cmd, sources[len(args)], args, prefix)
		}
		flag(cmd, "alias", func(ctx context.Context, c *client.Client, args []string, prefix string) []string {
			if len(args) == 0 {
				return nil
			}
			return a.aliasNames(ctx, c, args, prefix)
		})
	}
	for _, name := range []string{"deploy", "init"} {
		if cmd, _, err := root.Find([]string{name}); err == nil {
			flag(cmd, "runtime", runtimeNames)
		}
	}
}

// flag lets shells complete the value of a flag, if cmd has it.
func flag(cmd *cobra.Command, name string, from source) {
	if cmd.Flags().Lookup(name) == nil {
		return
	}
	err := cmd.RegisterFlagCompletionFunc(name, func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		return complete(cmd, from, args, prefix)
	})
	if err != nil {
		panic(err) // the flag has completions already
	}
}

func complete(cmd *cobra.Command, from source, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
	defer cancel()
	c, err := connect()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return from(ctx, c, args, prefix), cobra.ShellCompDirectiveNoFileComp
}

// matching gives those of names that begin with prefix.
func matching(names []string, prefix string) (out []string) {
	for _, name := range names {
		if strings.HasPrefix(name, prefix) && len(out) < maxCompletions {
			out = append(out, name)
		}
	}
	return out
}

func (a *app) functionNames(ctx context.Context, c *client.Client, _ []string, prefix string) (out []string) {
	for f, err := range c.Functions(ctx, a.namespace) {
		if err != nil || len(out) == maxCompletions {
			break
		}
		out = append(out, matching([]string{f.Name}, prefix)...)
	}
	return out
}

// aliasNames are those of the function that is the first argument.
func (a *app) aliasNames(ctx context.Context, c *client.Client, args []string, prefix string) []string {
	aliases, _ := c.Aliases(ctx, a.namespace, args[0])
	var names []string
	for _, alias := range aliases {
		names = append(names, alias.Name)
	}
	return matching(names, prefix)
}

// callees are functions and, behind a colon, their aliases.
func (a *app) callees(ctx context.Context, c *client.Client, args []string, prefix string) []string {
	function, alias, colon := strings.Cut(prefix, ":")
	if !colon {
		return a.functionNames(ctx, c, args, prefix)
	}
	names := a.aliasNames(ctx, c, []string{function}, alias)
	for i := range names {
		names[i] = function + ":" + names[i]
	}
	return names
}

func (a *app) routeNames(ctx context.Context, c *client.Client, _ []string, prefix string) []string {
	routes, _ := c.Routes(ctx, a.namespace)
	var names []string
	for _, r := range routes {
		names = append(names, r.Name)
	}
	return matching(names, prefix)
}

func (a *app) secretNames(ctx context.Context, c *client.Client, _ []string, prefix string) []string {
	secrets, _ := c.Secrets(ctx, a.namespace)
	var names []string
	for _, s := range secrets {
		names = append(names, s.Name)
	}
	return matching(names, prefix)
}

// runtimeNames are those that the node has, and the families that stand for the latest of them.
func runtimeNames(ctx context.Context, c *client.Client, _ []string, prefix string) []string {
	system, err := c.System(ctx)
	if err != nil {
		return nil
	}
	names := system.Runtimes
	for _, family := range []string{"python", "nodejs"} {
		if slices.ContainsFunc(system.Runtimes, func(name string) bool { return strings.HasPrefix(name, family) }) {
			names = append([]string{family}, names...)
		}
	}
	return matching(names, prefix)
}
