package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"lambent"
)

func (a *app) key() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Make, list and remove the API keys of a namespace",
		Args:  unknownCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.keyCreate(), a.keyList(), a.keyRemove())
	return cmd
}

func (a *app) keyCreate() *cobra.Command {
	var role string
	cmd := &cobra.Command{
		Use:   "create NAME --role ROLE",
		Short: "Make a key and print it, this once",
		Long: "Make a key and print it, this once: the platform keeps no more than its hash. What it may do in its namespace:\n\n" +
			"  invoke  call functions, at their URLs and by lambent invoke\n" +
			"  deploy  that, and deploy, alias, read code, logs and invocations; name secrets, but not set them\n" +
			"  admin   that, and keys and secrets",
		Example: "  LAMBENT_KEY=$(lambent key create ci --role deploy -n shop)",
		Args:    arg("key"),
	}
	cmd.Flags().StringVar(&role, "role", "", "`ROLE` of the key: invoke, deploy or admin")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := lambent.CheckRole(lambent.Role(role)); err != nil {
			return usagef("--role: %q is none of invoke, deploy and admin", role)
		}
		c, err := connect()
		if err != nil {
			return err
		}
		k, err := c.CreateKey(cmd.Context(), a.namespace, args[0], lambent.Role(role))
		if err != nil {
			return err
		}
		if a.json {
			printJSON(cmd.OutOrStdout(), k)
			return nil
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "made %s: keep what follows, it is not shown again\n", k.Principal())
		_, err = fmt.Fprintln(cmd.OutOrStdout(), k.Text)
		return err
	}
	return a.inNamespace(cmd)
}

func (a *app) keyList() *cobra.Command {
	cmd := &cobra.Command{Use: "ls", Short: "List the keys of a namespace", Args: noArgs}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		keys, err := c.Keys(cmd.Context(), a.namespace)
		if err != nil {
			return err
		}
		if a.json {
			printJSON(cmd.OutOrStdout(), map[string]any{"keys": keys})
			return nil
		}
		rows := [][]string{{"NAME", "ROLE", "CREATED"}}
		for _, k := range keys {
			rows = append(rows, []string{k.Name, string(k.Role), when(k.Created)})
		}
		return table(cmd.OutOrStdout(), rows...)
	}
	return a.inNamespace(cmd)
}

func (a *app) keyRemove() *cobra.Command {
	cmd := &cobra.Command{Use: "rm NAME", Short: "Remove a key; it opens nothing any more", Args: arg("key")}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		if err := c.DeleteKey(cmd.Context(), a.namespace, args[0]); err != nil {
			return err
		}
		return a.printRemoved(cmd, args[0])
	}
	return a.inNamespace(cmd)
}
