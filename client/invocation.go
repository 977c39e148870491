package client

import (
	"context"
	"encoding/json"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"lambent"
)

// Answer is what a function answered. Body must be closed.
type Answer struct {
	Invocation string // its id
	Status     int
	Header     http.Header
	Body       io.ReadCloser
}

// Invoke sends payload, which may be nil, to the function NAME or NAME:ALIAS. The error is the platform's; what the function
// answered, with whatever status, is an Answer.
func (c *Client) Invoke(ctx context.Context, namespace, name, contentType string, payload io.Reader) (*Answer, error) {
	header := http.Header{}
	if contentType != "" {
		header.Set("Content-Type", contentType)
	}
	name, alias, named := strings.Cut(name, ":")
	path := functionPath(namespace, name) + "/invocations"
	if named {
		path += "?alias=" + url.QueryEscape(alias)
	}
	resp, err := c.send(ctx, http.MethodPost, path, header, payload)
	if err != nil {
		return nil, err
	}
	id := resp.Header.Get("Lambent-Invocation")
	status, err := strconv.Atoi(resp.Header.Get("Lambent-Status"))
	if err != nil { // only the function's answers have it
		defer resp.Body.Close()
		e := *lambent.ErrorOf(errorIn(resp))
		if e.Invocation == "" {
			e.Invocation = id
		}
		return nil, &e
	}
	return &Answer{Invocation: id, Status: status, Header: resp.Header, Body: resp.Body}, nil
}

// Invocations gives the latest invocations, the latest first; an empty namespace or function means all,
// and limit 0 what the platform thinks is enough.
func (c *Client) Invocations(ctx context.Context, namespace, function string, limit int) ([]lambent.Record, error) {
	query := url.Values{}
	for name, value := range map[string]string{"namespace": namespace, "function": function} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if limit != 0 {
		query.Set("limit", strconv.Itoa(limit))
	}
	var out struct {
		Invocations []lambent.Record `json:"invocations"`
	}
	err := c.get(ctx, "/v1/invocations", query, &out)
	return out.Invocations, err
}

// Invocation gives the record of one invocation.
func (c *Client) Invocation(ctx context.Context, id string) (*lambent.Record, error) {
	out := &lambent.Record{}
	return out, c.get(ctx, "/v1/invocations"+segments(id), nil, out)
}

// LogQuery says which lines to read.
type LogQuery struct {
	Tail       int       // how many of the latest lines to begin with; negative for all
	Follow     bool      // go on with new lines until the context ends
	Invocation string    // only lines of this invocation, unless ""
	Since      time.Time // only lines from then on, unless zero
}

// Logs gives what a function wrote. An error ends the sequence; the end of ctx ends it without one.
func (c *Client) Logs(ctx context.Context, namespace, name string, q LogQuery) iter.Seq2[lambent.LogLine, error] {
	query := url.Values{"tail": {strconv.Itoa(max(q.Tail, -1))}}
	if q.Follow {
		query.Set("follow", "true")
	}
	if q.Invocation != "" {
		query.Set("invocation", q.Invocation)
	}
	if !q.Since.IsZero() {
		query.Set("since", q.Since.UTC().Format(time.RFC3339Nano))
	}
	return func(yield func(lambent.LogLine, error) bool) {
		resp, err := c.send(ctx, http.MethodGet, functionPath(namespace, name)+"/logs?"+query.Encode(), nil, nil)
		if err != nil {
			if ctx.Err() == nil {
				yield(lambent.LogLine{}, err)
			}
			return
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			yield(lambent.LogLine{}, errorIn(resp))
			return
		}
		dec := json.NewDecoder(resp.Body)
		for {
			var line struct {
				lambent.LogLine
				Error *lambent.Error `json:"error"`
			}
			err := dec.Decode(&line)
			switch {
			case err == io.EOF || ctx.Err() != nil:
				return
			case err != nil:
				err = lambent.Errorf(lambent.CodeInternal, "the stream of logs broke off: %w", err)
			case line.Error != nil:
				err = line.Error
			}
			if !yield(line.LogLine, err) || err != nil {
				return
			}
		}
	}
}
