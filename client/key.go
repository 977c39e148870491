package client

import (
	"context"
	"net/http"

	"lambent"
)

// NewKey is a key that was made. Text is the key itself, which nothing gives again.
type NewKey struct {
	lambent.Key
	Text string `json:"text"`
}

func keysPath(namespace string) string { return segments("v1", "namespaces", namespace, "keys") }

// CreateKey makes an API key of a namespace.
func (c *Client) CreateKey(ctx context.Context, namespace, name string, role lambent.Role) (*NewKey, error) {
	header, body, err := jsonBody(struct {
		Name string       `json:"name"`
		Role lambent.Role `json:"role"`
	}{name, role})
	if err != nil {
		return nil, err
	}
	out := &NewKey{}
	return out, c.call(ctx, http.MethodPost, keysPath(namespace), header, body, out)
}

// Keys tells of the API keys of a namespace, by name.
func (c *Client) Keys(ctx context.Context, namespace string) ([]*lambent.Key, error) {
	var out struct {
		Keys []*lambent.Key `json:"keys"`
	}
	err := c.get(ctx, keysPath(namespace), nil, &out)
	return out.Keys, err
}

// DeleteKey removes an API key, which opens nothing any more when this returns.
func (c *Client) DeleteKey(ctx context.Context, namespace, name string) error {
	return c.call(ctx, http.MethodDelete, keysPath(namespace)+segments(name), nil, nil, nil)
}
