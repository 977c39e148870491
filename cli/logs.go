package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lambent"
	"lambent/client"
)

func (a *app) logs() *cobra.Command {
	var q client.LogQuery
	var since time.Duration
	cmd := &cobra.Command{Use: "logs NAME", Short: "Print what a function wrote", Args: arg("function")}
	flags := cmd.Flags()
	flags.BoolVarP(&q.Follow, "follow", "f", false, "go on with new lines until Ctrl-C")
	flags.IntVar(&q.Tail, "tail", 100, "how many of the latest lines to begin with, -1 for all")
	flags.StringVar(&q.Invocation, "invocation", "", "only lines of the invocation with this `ID`")
	flags.DurationVar(&since, "since", 0, "only lines of the latest time, such as 10m")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := connect()
		if err != nil {
			return err
		}
		if since > 0 {
			q.Since = time.Now().Add(-since)
		}
		for line, err := range c.Logs(cmd.Context(), a.namespace, args[0], q) {
			if err != nil {
				return err
			}
			if err := a.printLine(cmd.OutOrStdout(), line); err != nil {
				return err
			}
		}
		return nil
	}
	return a.inNamespace(cmd)
}

// printLine prints the time, the invocation or else the instance with those that the line may belong to, and
// the text. In JSON it is one object in
// a line.
func (a *app) printLine(w io.Writer, l lambent.LogLine) error {
	if a.json {
		return json.NewEncoder(w).Encode(l)
	}
	whose := cmp.Or(l.Invocation, l.Instance)
	if len(l.InFlight) > 0 {
		whose += " [" + strings.Join(l.InFlight, " ") + "]"
	}
	_, err := fmt.Fprintf(w, "%s %s %s\n", l.Time.Local().Format("2006-01-02 15:04:05.000"), whose, l.Text)
	return err
}

func (a *app) why() *cobra.Command {
	return &cobra.Command{
		Use:   "why INVOCATION",
		Short: "Show where the time of an invocation went, how it ended and what it wrote",
		Args:  arg("invocation"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			r, err := c.Invocation(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			lines := []lambent.LogLine{}
			for line, err := range c.Logs(cmd.Context(), r.Namespace, r.Function, client.LogQuery{Tail: -1, Invocation: r.ID}) {
				if lambent.HasCode(err, lambent.CodeFunctionNotFound) {
					break // the record outlives its function, the logs do not
				}
				if err != nil {
					return err
				}
				lines = append(lines, line)
			}
			if a.json {
				printJSON(cmd.OutOrStdout(), map[string]any{"record": r, "logs": lines})
				return nil
			}
			return a.printWhy(cmd.OutOrStdout(), r, lines)
		},
	}
}

func (a *app) printWhy(w io.Writer, r *lambent.Record, lines []lambent.LogLine) error {
	start := "warm"
	if r.Cold {
		start = "cold"
	}
	outcome := fmt.Sprintf("status %d", r.Status)
	if r.Error != nil {
		outcome = fmt.Sprintf("%s, the fault is the %s's", r.Error.Code, r.Error.Fault)
	}
	attempt := ""
	if r.Attempt > 1 {
		attempt = fmt.Sprintf(", attempt %d after an instance died with it", r.Attempt)
	}
	at := ""
	if r.Alias != "" && r.Alias != lambent.LatestAlias {
		at = ":" + r.Alias
	}
	rows := [][]string{
		{"invocation", r.ID},
		{"function", r.Namespace + "/" + r.Function + at + "@" + r.Revision},
		{"request", fmt.Sprintf("%s %s, by %s at %s", r.Method, r.Path, r.Trigger, r.Accepted.Local().Format("2006-01-02 15:04:05.000"))},
		{"instance", cmp.Or(r.Instance, "none reached") + ", " + start + attempt},
		{"bytes", fmt.Sprintf("%d in, %d out", r.BytesIn, r.BytesOut)},
		{"outcome", outcome},
	}
	if r.CPU > 0 {
		rows = append(rows, []string{"used", fmt.Sprintf("%.3f ms of processor time, %d KiB of memory", r.CPU, r.Memory>>10)})
	}
	if err := table(w, rows...); err != nil {
		return err
	}
	fmt.Fprintln(w)
	if err := table(w, timeline(r.Phases)...); err != nil {
		return err
	}
	if r.Error != nil {
		fmt.Fprintln(w)
		printError(w, &lambent.Error{Code: r.Error.Code, Message: r.Error.Message, Hint: r.Error.Hint, Trace: r.Error.Trace})
	}
	if len(lines) > 0 {
		fmt.Fprintln(w)
	}
	for _, l := range lines {
		fmt.Fprintln(w, l.Text)
	}
	return nil
}

const timelineWidth = 40

// timeline is a table of the phases that took time; their bars follow one another as they did.
func timeline(p lambent.Phases) [][]string {
	total := p.Total()
	rows := [][]string{{"PHASE", "TIME", "SHARE"}}
	var before time.Duration
	for i, d := range p {
		if d == 0 {
			continue
		}
		from := int(before * timelineWidth / total)
		to := int((before + d) * timelineWidth / total)
		before += d
		bar := strings.Repeat(" ", from) + strings.Repeat("█", to-from)
		if to == from {
			bar += "▏"
		}
		rows = append(rows, []string{lambent.Phase(i).String(), short(d), bar})
	}
	return append(rows, []string{"total", short(total), strings.Repeat("─", timelineWidth)})
}
