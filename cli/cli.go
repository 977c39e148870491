// Package cli is the command line of Lambent. It speaks to a platform over HTTP only, through package
// client, so that it works the same against this machine and another; cli_test.go guards what it imports.
//
// What a command finds goes to stdout, everything else to stderr; with --json both are JSON. The exit code
// is 0 when all went well, else by whose fault it was: 1 the platform's, 2 the command line's, 3 the
// caller's, 4 the function's, 5 a limit's.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"lambent"
	"lambent/client"
	"lambent/internal/nearest"
)

// app is what the commands of one root share.
type app struct {
	json      bool
	namespace string
}

// New makes the command `lambent` with its subcommands and those in extra. Set its Version for
// `lambent version`, and run it with [Run].
func New(extra ...*cobra.Command) *cobra.Command {
	a := &app{}
	root := &cobra.Command{
		Use:           "lambent",
		Short:         "Run functions, sandboxed, started when they are called",
		SilenceErrors: true, // Run prints them
		SilenceUsage:  true,
		Args:          unknownCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	flags := root.PersistentFlags()
	flags.BoolVar(&a.json, "json", false, "write JSON, errors too")
	root.AddCommand(
		a.deploy(), a.invoke(), a.list(), a.get(), a.remove(), a.publish(), a.alias(), a.rollback(), a.diff(), a.route(), a.apply(), a.secret(), a.key(),
		a.logs(), a.why(), a.events(), a.doctor(), a.initialise(), a.version(),
	)
	a.completions(root)
	root.AddCommand(extra...)
	return root
}

// Run runs the command that the arguments name, prints its error, and gives the exit code.
func Run(ctx context.Context, root *cobra.Command) int {
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	var silent exitError
	if errors.As(err, &silent) {
		return int(silent)
	}
	var usage usageError
	e := lambent.ErrorOf(err)
	if errors.As(err, &usage) {
		e = lambent.Errorf(lambent.CodeInvalidRequest, "%w", usage.error).WithHint("see %s --help", cmd.CommandPath())
	}
	if asJSON, _ := root.PersistentFlags().GetBool("json"); asJSON {
		printJSON(root.ErrOrStderr(), map[string]*lambent.Error{"error": e})
	} else {
		printError(root.ErrOrStderr(), e)
	}
	if usage.error != nil {
		return 2
	}
	return exitCode(e.Fault)
}

// exitCode is the exit code for a fault.
func exitCode(f lambent.Fault) int {
	switch f {
	case lambent.FaultClient:
		return 3
	case lambent.FaultFunction:
		return 4
	case lambent.FaultLimit:
		return 5
	}
	return 1
}

// exitError ends the program with a code; all has been said.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// usageError is a mistake in the command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// arg takes exactly the arguments that names name for the message.
func arg(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch n := len(names); {
		case len(args) < n:
			return usagef("say which: %s is missing", names[len(args)])
		case len(args) > n:
			return usagef("%q is one argument too many: the last is the %s", args[n], names[n-1])
		}
		return nil
	}
}

func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%q is one argument too many: there are none", args[0])
	}
	return nil
}

func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, c := range cmd.Commands() {
		names = append(names, c.Name())
	}
	if near := nearest.Of(args[0], names); near != "" {
		return usagef("there is no command %q; did you mean %s?", args[0], near)
	}
	return usagef("there is no command %q", args[0])
}

// inNamespace gives cmd the flag of the namespace that it works in.
func (a *app) inNamespace(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVarP(&a.namespace, "namespace", "n", lambent.DefaultNamespace, "namespace of the function")
	return cmd
}

func connect() (*client.Client, error) {
	e, err := target()
	if err != nil {
		return nil, err
	}
	c, err := client.New(e.url, e.key)
	if err != nil || e.ca == "" {
		return c, err
	}
	pem, err := os.ReadFile(e.ca)
	if err != nil {
		return nil, lambent.Errorf(lambent.CodeInvalidRequest, "cannot read the certificates to trust in: %w", err).
			WithHint("LAMBENT_CA names a PEM file, or nothing")
	}
	return c, c.Trust(pem)
}

func printJSON(w io.Writer, v any) {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		fmt.Fprintln(w, err) // a closed pipe; nothing else can fail
	}
}

func printError(w io.Writer, e *lambent.Error) {
	fmt.Fprintf(w, "lambent: %s: %s\n", e.Code, e.Message)
	if e.Trace != "" {
		fmt.Fprintln(w, indent(strings.TrimRight(e.Trace, "\n")))
	}
	if e.Hint != "" {
		fmt.Fprintf(w, "hint: %s\n", e.Hint)
	}
	if e.Invocation != "" {
		fmt.Fprintf(w, "see: lambent why %s\n", e.Invocation)
	}
}

func indent(text string) string { return "  " + strings.ReplaceAll(text, "\n", "\n  ") }

// table writes rows of columns, the first of them the headings.
func table(w io.Writer, rows ...[]string) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	return tw.Flush()
}
