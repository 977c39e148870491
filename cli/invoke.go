package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"lambent"
	"lambent/client"
)

func (a *app) invoke() *cobra.Command {
	var data, contentType, path, method string
	cmd := &cobra.Command{
		Use:   "invoke NAME[:ALIAS]",
		Short: "Call a function and print its answer",
		Long: "Call a function and print its answer.\n\n" +
			"The payload goes through the control API, so it needs the platform's key and no route. With --path or --method the\n" +
			"call is an HTTP request to the function's public URL instead.",
		Args: arg("function"),
	}
	flags := cmd.Flags()
	flags.StringVarP(&data, "data", "d", "", "the payload, `TEXT`, @FILE, or - for standard input")
	flags.StringVar(&contentType, "type", "application/json", "content type of the payload")
	flags.StringVar(&path, "path", "", "call the public URL, with this path and query")
	flags.StringVar(&method, "method", "", "call the public URL, with this method")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		payload, err := openPayload(data, flags.Changed("data"), cmd.InOrStdin())
		if err != nil {
			return err
		}
		var answer *client.Answer
		if path != "" || method != "" {
			answer, err = a.request(cmd, c, args[0], method, path, contentType, payload)
		} else {
			if payload == nil {
				contentType = ""
			}
			answer, err = c.Invoke(cmd.Context(), a.namespace, args[0], contentType, payload)
		}
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		return a.printAnswer(cmd, answer)
	}
	return a.inNamespace(cmd)
}

// openPayload gives what --data stands for; nil when it was not given.
func openPayload(data string, given bool, stdin io.Reader) (io.Reader, error) {
	switch {
	case !given:
		return nil, nil
	case data == "-":
		return stdin, nil
	case strings.HasPrefix(data, "@"):
		f, err := os.Open(data[1:]) // the transport closes it
		if err != nil {
			return nil, lambent.Errorf(lambent.CodeInvalidRequest, "--data: %w", err)
		}
		return f, nil
	}
	return strings.NewReader(data), nil
}

// request calls the function's public URL, and follows no redirection. The key goes along only where the
// gateway asks for it, and takes it away: no function gets to see it.
func (a *app) request(cmd *cobra.Command, c *client.Client, name, method, path, contentType string, payload io.Reader) (*client.Answer, error) {
	system, err := c.System(cmd.Context())
	if err != nil {
		return nil, err
	}
	name, alias, aliased := strings.Cut(name, ":")
	f, err := c.Function(cmd.Context(), a.namespace, name)
	if err != nil {
		return nil, err
	}
	served := []lambent.Target{{Revision: f.Latest}}
	url := system.Functions + "/fn/" + name + "." + a.namespace
	if aliased {
		to, err := c.Alias(cmd.Context(), a.namespace, name, alias)
		if err != nil {
			return nil, err
		}
		served = append(served, to.Targets...)
		url += ":" + alias
	}
	if method == "" {
		method = http.MethodGet
		if payload != nil {
			method = http.MethodPost
		}
	}
	req, err := http.NewRequestWithContext(cmd.Context(), method, url+"/"+strings.TrimPrefix(path, "/"), payload)
	if err != nil {
		return nil, usagef("%w", err)
	}
	if payload != nil {
		req.Header.Set("Content-Type", contentType)
	}
	if slices.ContainsFunc(served, func(t lambent.Target) bool { return keyed(t.Revision.Settings.Auth, system.Public) }) {
		e, err := target()
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+e.key)
	}
	resp, err := c.Public(req)
	if err != nil {
		return nil, err
	}
	return &client.Answer{Invocation: resp.Header.Get("Lambent-Invocation"), Status: resp.StatusCode, Header: resp.Header, Body: resp.Body}, nil
}

// keyed tells whether the gateway asks callers of a function with that auth for a key.
func keyed(auth string, public bool) bool {
	return auth == lambent.AuthKey || auth == "" && !public
}

func (a *app) printAnswer(cmd *cobra.Command, answer *client.Answer) error {
	out := cmd.OutOrStdout()
	if a.json {
		raw, err := io.ReadAll(answer.Body)
		if err != nil {
			return brokenOff(answer, err)
		}
		var body any = string(raw)
		if json.Valid(raw) {
			body = json.RawMessage(raw)
		}
		printJSON(out, map[string]any{"invocation": answer.Invocation, "status": answer.Status, "header": answer.Header, "body": body})
	} else {
		last := &lastByte{Writer: out}
		if _, err := io.Copy(last, answer.Body); err != nil {
			return brokenOff(answer, err)
		}
		if last.b != '\n' && isText(answer.Header.Get("Content-Type")) {
			fmt.Fprintln(out)
		}
	}
	if answer.Status < 400 {
		return nil
	}
	if !a.json {
		fmt.Fprintf(cmd.ErrOrStderr(), "lambent: the answer has status %d %s\n", answer.Status, http.StatusText(answer.Status))
	}
	if answer.Status < 500 {
		return exitError(exitCode(lambent.FaultClient))
	}
	return exitError(exitCode(lambent.FaultFunction))
}

func brokenOff(answer *client.Answer, err error) error {
	e := lambent.Errorf(lambent.CodeInstanceExited, "the answer broke off: %w", err)
	e.Invocation = answer.Invocation
	return e
}

func isText(contentType string) bool {
	return strings.HasPrefix(contentType, "text/") || strings.HasPrefix(contentType, "application/json")
}

// lastByte remembers the last byte that went through, 0 before the first.
type lastByte struct {
	io.Writer
	b byte
}

func (l *lastByte) Write(p []byte) (int, error) {
	if len(p) > 0 {
		l.b = p[len(p)-1]
	}
	return l.Writer.Write(p)
}
