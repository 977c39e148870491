package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"

	"lambent"
)

// Deploy says what to deploy, and what must be there.
type Deploy struct {
	Namespace, Name string
	Settings        lambent.Settings // Runtime may be "python": the latest that the node has
	Code            string           // digest of an uploaded bundle
	Source          string           // digest of what it was built from, if it was
	// Version is the one that the function must be at, else the deploy is a conflict; 0 for any.
	Version uint64
	// Create makes the deploy a conflict if the function exists.
	Create bool
}

// Deployment tells what a deploy did.
type Deployment struct {
	Function  *lambent.Function `json:"function"`
	Created   bool              `json:"created"`   // there was no such function before
	Unchanged bool              `json:"unchanged"` // this revision served already
	Phases    lambent.Phases    `json:"phases_ms"` // of its first instance's start
	URL       string            `json:"url"`
}

// Deploy makes a revision and lets it serve once it is ready. When it fails, what served before goes on.
func (c *Client) Deploy(ctx context.Context, d Deploy) (*Deployment, error) {
	header, body, err := jsonBody(struct {
		Settings lambent.Settings `json:"settings"`
		Code     string           `json:"code"`
		Source   string           `json:"source,omitempty"`
	}{d.Settings, d.Code, d.Source})
	if err != nil {
		return nil, err
	}
	ifMatch(header, d.Version)
	if d.Create {
		header.Set("If-None-Match", "*")
	}
	out := &Deployment{}
	return out, c.call(ctx, http.MethodPut, functionPath(d.Namespace, d.Name), header, body, out)
}

// Function gives a function.
func (c *Client) Function(ctx context.Context, namespace, name string) (*lambent.Function, error) {
	out := &lambent.Function{}
	return out, c.get(ctx, functionPath(namespace, name), nil, out)
}

// Delete removes a function with its revisions, aliases and logs. It is a conflict if the function is not at
// version, unless that is 0.
func (c *Client) Delete(ctx context.Context, namespace, name string, version uint64) error {
	header := http.Header{}
	ifMatch(header, version)
	return c.call(ctx, http.MethodDelete, functionPath(namespace, name), header, nil, nil)
}

// Functions gives the functions of a namespace, or all when it is "", in order of namespace and name. It
// asks for a page at a time; an error ends the sequence.
func (c *Client) Functions(ctx context.Context, namespace string) iter.Seq2[*lambent.Function, error] {
	return func(yield func(*lambent.Function, error) bool) {
		query := url.Values{"limit": {"1000"}}
		if namespace != "" {
			query.Set("namespace", namespace)
		}
		for {
			var page struct {
				Functions []*lambent.Function `json:"functions"`
				Next      string              `json:"next"`
			}
			if err := c.get(ctx, "/v1/functions", query, &page); err != nil {
				yield(nil, err)
				return
			}
			for _, f := range page.Functions {
				if !yield(f, nil) {
					return
				}
			}
			if page.Next == "" {
				return
			}
			query.Set("after", page.Next)
		}
	}
}

// Revisions gives a function's revisions, the latest made first.
func (c *Client) Revisions(ctx context.Context, namespace, name string) ([]*lambent.Revision, error) {
	var out struct {
		Revisions []*lambent.Revision `json:"revisions"`
	}
	err := c.get(ctx, functionPath(namespace, name)+"/revisions", nil, &out)
	return out.Revisions, err
}

// Revision gives one revision of a function.
func (c *Client) Revision(ctx context.Context, namespace, name, id string) (*lambent.Revision, error) {
	out := &lambent.Revision{}
	return out, c.get(ctx, functionPath(namespace, name)+"/revisions"+segments(id), nil, out)
}

// System is what a node is and can do.
type System struct {
	Version   string            `json:"version"`
	Arch      string            `json:"arch"`      // what Go calls it: amd64, arm64
	Functions string            `json:"functions"` // URL of the functions listener
	Public    bool              `json:"public"`    // functions that say no auth are open to everybody
	Runtimes  []string          `json:"runtimes"`
	Findings  []lambent.Finding `json:"findings"`
}

// System asks the node what it is.
func (c *Client) System(ctx context.Context) (*System, error) {
	out := &System{}
	return out, c.get(ctx, "/v1/system", nil, out)
}
