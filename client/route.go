package client

import (
	"context"
	"net/http"

	"lambent"
)

// SetRoute says what a route is to be, and what must be there.
type SetRoute struct {
	Namespace, Name string
	Spec            lambent.RouteSpec
	// Version is the one that the route must be at, else it is a conflict; 0 for any.
	Version uint64
	// Create makes it a conflict if the route exists.
	Create bool
}

// SetRoute makes or changes a route. When it returns, the gateway routes by it.
func (c *Client) SetRoute(ctx context.Context, s SetRoute) (*lambent.Route, error) {
	header, body, err := jsonBody(s.Spec)
	if err != nil {
		return nil, err
	}
	ifMatch(header, s.Version)
	if s.Create {
		header.Set("If-None-Match", "*")
	}
	out := &lambent.Route{}
	return out, c.call(ctx, http.MethodPut, routePath(s.Namespace, s.Name), header, body, out)
}

func routePath(namespace string, name ...string) string {
	return segments(append([]string{"v1", "namespaces", namespace, "routes"}, name...)...)
}

// Route gives a route.
func (c *Client) Route(ctx context.Context, namespace, name string) (*lambent.Route, error) {
	out := &lambent.Route{}
	return out, c.get(ctx, routePath(namespace, name), nil, out)
}

// Routes gives a namespace's routes, in order of host and path.
func (c *Client) Routes(ctx context.Context, namespace string) ([]*lambent.Route, error) {
	var out struct {
		Routes []*lambent.Route `json:"routes"`
	}
	err := c.get(ctx, routePath(namespace), nil, &out)
	return out.Routes, err
}

// DeleteRoute removes a route. It is a conflict if the route is not at version, unless that is 0.
func (c *Client) DeleteRoute(ctx context.Context, namespace, name string, version uint64) error {
	header := http.Header{}
	ifMatch(header, version)
	return c.call(ctx, http.MethodDelete, routePath(namespace, name), header, nil, nil)
}
