package client

import (
	"context"
	"net/http"
	"net/url"

	"lambent"
)

// SetAlias says what an alias is to be, and what must be there.
type SetAlias struct {
	Namespace, Function, Name string
	// Targets name their revisions by id, by number, or by an alias that has one target.
	Targets []lambent.Weight
	Sticky  string // "header:NAME", "query:NAME" or ""
	// Version is the one that the alias must be at, else it is a conflict; 0 for any.
	Version uint64
	// Create makes it a conflict if the alias exists.
	Create bool
}

// SetAlias makes or moves an alias. When it returns, requests that are sent to the alias meet the new targets.
func (c *Client) SetAlias(ctx context.Context, s SetAlias) (*lambent.Alias, error) {
	header, body, err := jsonBody(struct {
		Targets []lambent.Weight `json:"targets"`
		Sticky  string           `json:"sticky,omitempty"`
	}{s.Targets, s.Sticky})
	if err != nil {
		return nil, err
	}
	ifMatch(header, s.Version)
	if s.Create {
		header.Set("If-None-Match", "*")
	}
	out := &lambent.Alias{}
	return out, c.call(ctx, http.MethodPut, aliasPath(s.Namespace, s.Function, s.Name), header, body, out)
}

func aliasPath(namespace, name, alias string) string {
	return functionPath(namespace, name) + "/aliases" + segments(alias)
}

// Alias gives an alias of a function.
func (c *Client) Alias(ctx context.Context, namespace, name, alias string) (*lambent.Alias, error) {
	out := &lambent.Alias{}
	return out, c.get(ctx, aliasPath(namespace, name, alias), nil, out)
}

// Aliases gives a function's aliases: latest, the others by name, the published versions by number.
func (c *Client) Aliases(ctx context.Context, namespace, name string) ([]*lambent.Alias, error) {
	var out struct {
		Aliases []*lambent.Alias `json:"aliases"`
	}
	err := c.get(ctx, functionPath(namespace, name)+"/aliases", nil, &out)
	return out.Aliases, err
}

// DeleteAlias removes an alias. It is a conflict if the alias is not at version, unless that is 0.
func (c *Client) DeleteAlias(ctx context.Context, namespace, name, alias string, version uint64) error {
	header := http.Header{}
	ifMatch(header, version)
	return c.call(ctx, http.MethodDelete, aliasPath(namespace, name, alias), header, nil, nil)
}

// Publish gives a revision, named as in [SetAlias] and latest if it is "", the number that it keeps for ever.
func (c *Client) Publish(ctx context.Context, namespace, name, revision string) (*lambent.Alias, error) {
	header, body, err := jsonBody(struct {
		Revision string `json:"revision,omitempty"`
	}{revision})
	if err != nil {
		return nil, err
	}
	out := &lambent.Alias{}
	return out, c.call(ctx, http.MethodPost, functionPath(namespace, name)+"/publish", header, body, out)
}

// Rollback moves an alias, latest if it is "", to what it pointed to before its last move. It is a conflict if
// the alias is not at version, unless that is 0.
func (c *Client) Rollback(ctx context.Context, namespace, name, alias string, version uint64) (*lambent.Alias, error) {
	header, body, err := jsonBody(struct {
		Alias string `json:"alias,omitempty"`
	}{alias})
	if err != nil {
		return nil, err
	}
	ifMatch(header, version)
	out := &lambent.Alias{}
	return out, c.call(ctx, http.MethodPost, functionPath(namespace, name)+"/rollback", header, body, out)
}

// Diff tells how two revisions of a function, named as in [SetAlias], differ.
func (c *Client) Diff(ctx context.Context, namespace, name, from, to string) (*lambent.Diff, error) {
	out := &lambent.Diff{}
	return out, c.get(ctx, functionPath(namespace, name)+"/diff", url.Values{"from": {from}, "to": {to}}, out)
}
