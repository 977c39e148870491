package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"lambent"
)

func (a *app) secret() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "secret",
		Short: "Set, list, remove and rotate what functions need and nobody else may see",
		Args:  unknownCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.secretSet(), a.secretList(), a.secretRemove(), a.secretRotate())
	return cmd
}

func (a *app) secretSet() *cobra.Command {
	var file, variable string
	cmd := &cobra.Command{
		Use:   "set NAME",
		Short: "Give a secret its value, from stdin, a file or an environment variable",
		Long: "Give a secret its value: from stdin, less one line end, or the bytes of a file, or an environment variable. It\n" +
			"is no argument, because those show in the list of processes and stay in the shell's history.\n\n" +
			"Functions that use the secret are started anew: requests that are sent when this has returned meet the new value.",
		Example: "  pass show api | lambent secret set api-token\n  lambent secret set tls --from-file tls.key",
		Args:    arg("secret"),
	}
	cmd.Flags().StringVar(&file, "from-file", "", "read the value from a `FILE`")
	cmd.Flags().StringVar(&variable, "from-env", "", "take the value of an environment `VARIABLE`")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		value, err := secretValue(cmd.InOrStdin(), file, variable)
		if err != nil {
			return err
		}
		c, err := connect()
		if err != nil {
			return err
		}
		s, err := c.SetSecret(cmd.Context(), a.namespace, args[0], bytes.NewReader(value))
		if err != nil {
			return err
		}
		if a.json {
			printJSON(cmd.OutOrStdout(), s)
			return nil
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s/%s is at version %d\n", s.Namespace, s.Name, s.Version)
		return err
	}
	return a.inNamespace(cmd)
}

// secretValue reads a value from where it is. More than a secret may have is read for the platform to refuse.
func secretValue(stdin io.Reader, file, variable string) ([]byte, error) {
	switch {
	case variable != "" && file != "":
		return nil, usagef("--from-file and --from-env: the value can come from one of them only")
	case variable != "":
		value, ok := os.LookupEnv(variable)
		if !ok {
			return nil, usagef("there is no environment variable %s", variable)
		}
		return []byte(value), nil
	case file != "":
		f, err := os.Open(file)
		if err != nil {
			return nil, usagef("%w", err)
		}
		defer f.Close()
		return io.ReadAll(io.LimitReader(f, lambent.MaxSecret+1))
	}
	if f, ok := stdin.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			return nil, usagef("the value comes from stdin, which is a terminal: pipe it in, or use --from-file or --from-env")
		}
	}
	value, err := io.ReadAll(io.LimitReader(stdin, lambent.MaxSecret+3))
	value = bytes.TrimSuffix(bytes.TrimSuffix(value, []byte("\n")), []byte("\r"))
	return value, err
}

func (a *app) secretList() *cobra.Command {
	cmd := &cobra.Command{Use: "ls", Short: "List the secrets of a namespace; their values are shown to nobody", Args: noArgs}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		secrets, err := c.Secrets(cmd.Context(), a.namespace)
		if err != nil {
			return err
		}
		if a.json {
			printJSON(cmd.OutOrStdout(), map[string]any{"secrets": secrets})
			return nil
		}
		rows := [][]string{{"NAME", "VERSION", "CREATED", "UPDATED"}}
		for _, s := range secrets {
			rows = append(rows, []string{s.Name, fmt.Sprint(s.Version), when(s.Created), when(s.Updated)})
		}
		return table(cmd.OutOrStdout(), rows...)
	}
	return a.inNamespace(cmd)
}

func (a *app) secretRemove() *cobra.Command {
	cmd := &cobra.Command{Use: "rm NAME", Short: "Remove a secret that no function uses", Args: arg("secret")}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		if err := c.DeleteSecret(cmd.Context(), a.namespace, args[0]); err != nil {
			return err
		}
		return a.printRemoved(cmd, args[0])
	}
	return a.inNamespace(cmd)
}

// printRemoved says that a resource of the namespace is gone.
func (a *app) printRemoved(cmd *cobra.Command, name string) error {
	if a.json {
		printJSON(cmd.OutOrStdout(), map[string]string{"namespace": a.namespace, "name": name})
		return nil
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s/%s is removed\n", a.namespace, name)
	return err
}

func (a *app) secretRotate() *cobra.Command {
	return &cobra.Command{
		Use:   "rotate",
		Short: "Seal every secret of the node with a new key, and forget the old one",
		Long: "Seal every secret of the node with a new key, and forget the old one. Values stay as they are. It may be\n" +
			"interrupted at any time and done again.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			n, err := c.RotateSecrets(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				printJSON(cmd.OutOrStdout(), map[string]int{"secrets": n})
				return nil
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "secrets sealed with a new key: %d\n", n)
			return err
		},
	}
}
