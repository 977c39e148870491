package client

import (
	"context"
	"encoding/json"
	"errors"
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

// Logs gives what a function wrote. An error ends the sequence; the end of ctx ends it without one. Who follows goes on
// when the node is upgraded or started again.
func (c *Client) Logs(ctx context.Context, namespace, name string, q LogQuery) iter.Seq2[lambent.LogLine, error] {
	read := func(tail int, since time.Time) iter.Seq2[lambent.LogLine, error] {
		query := url.Values{"tail": {strconv.Itoa(max(tail, -1))}}
		if q.Follow {
			query.Set("follow", "true")
		}
		if q.Invocation != "" {
			query.Set("invocation", q.Invocation)
		}
		if !since.IsZero() {
			query.Set("since", since.UTC().Format(time.RFC3339Nano))
		}
		return lines[lambent.LogLine](ctx, c, functionPath(namespace, name)+"/logs?"+query.Encode(), "logs")
	}
	first := read(q.Tail, q.Since)
	if !q.Follow {
		return first
	}
	return follow(ctx, first, func(since time.Time) iter.Seq2[lambent.LogLine, error] { return read(-1, since) },
		func(l lambent.LogLine) time.Time { return l.Time })
}

// EventQuery says which events to read. A field that is empty leaves nothing out.
type EventQuery struct {
	Namespace, Function string
	Kind                lambent.EventKind // or what stands before the dot of several
	Since               time.Time
	Limit               int  // how many of the latest to begin with
	Follow              bool // go on with new events until the context ends
}

// SystemEvents gives what happened to the node and its instances, in its order. An error ends the sequence; the end of
// ctx ends it without one. Who follows goes on when the node is upgraded or started again.
func (c *Client) SystemEvents(ctx context.Context, q EventQuery) iter.Seq2[lambent.SystemEvent, error] {
	read := func(limit int, since time.Time) iter.Seq2[lambent.SystemEvent, error] {
		query := url.Values{"limit": {strconv.Itoa(limit)}}
		for name, value := range map[string]string{"namespace": q.Namespace, "function": q.Function, "kind": string(q.Kind)} {
			if value != "" {
				query.Set(name, value)
			}
		}
		if !since.IsZero() {
			query.Set("since", since.UTC().Format(time.RFC3339Nano))
		}
		if q.Follow {
			query.Set("follow", "true")
		}
		return lines[lambent.SystemEvent](ctx, c, "/v1/system/events?"+query.Encode(), "events")
	}
	first := read(q.Limit, q.Since)
	if !q.Follow {
		return first
	}
	return follow(ctx, first, func(since time.Time) iter.Seq2[lambent.SystemEvent, error] { return read(maxEvents, since) },
		func(e lambent.SystemEvent) time.Time { return e.Time })
}

const maxEvents = 10_000 // at a time, by the API

// lines reads an answer of JSON objects in a line each; what names them.
func lines[T any](ctx context.Context, c *Client, path, what string) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		resp, err := c.send(ctx, http.MethodGet, path, nil, nil)
		if err != nil {
			if ctx.Err() == nil {
				yield(none, err)
			}
			return
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			yield(none, errorIn(resp))
			return
		}
		dec := json.NewDecoder(resp.Body)
		for {
			var raw json.RawMessage
			var last struct {
				Error *lambent.Error `json:"error"`
			}
			var line T
			err := dec.Decode(&raw)
			if err == nil {
				err = errors.Join(json.Unmarshal(raw, &line), json.Unmarshal(raw, &last))
			}
			switch {
			case err == io.EOF || ctx.Err() != nil:
				return
			case err != nil:
				err = lambent.Errorf(lambent.CodeInternal, "the stream of %s broke off: %w", what, err)
			case last.Error != nil:
				err = last.Error
			}
			if !yield(line, err) || err != nil {
				return
			}
		}
	}
}
