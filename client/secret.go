package client

import (
	"context"
	"io"
	"net/http"

	"lambent"
)

func secretPath(namespace, name string) string {
	return segments("v1", "namespaces", namespace, "secrets", name)
}

// SetSecret gives a secret its value, up to [lambent.MaxSecret] bytes. Functions that use it meet the new value in
// every request that is sent after this has returned.
func (c *Client) SetSecret(ctx context.Context, namespace, name string, value io.Reader) (*lambent.Secret, error) {
	out := &lambent.Secret{}
	header := http.Header{"Content-Type": {"application/octet-stream"}}
	return out, c.call(ctx, http.MethodPut, secretPath(namespace, name), header, value, out)
}

// Secrets tells of the secrets of a namespace, by name. Nothing gives a value back.
func (c *Client) Secrets(ctx context.Context, namespace string) ([]*lambent.Secret, error) {
	var out struct {
		Secrets []*lambent.Secret `json:"secrets"`
	}
	err := c.get(ctx, segments("v1", "namespaces", namespace, "secrets"), nil, &out)
	return out.Secrets, err
}

// DeleteSecret removes a secret. It is a conflict while a function uses it.
func (c *Client) DeleteSecret(ctx context.Context, namespace, name string) error {
	return c.call(ctx, http.MethodDelete, secretPath(namespace, name), nil, nil, nil)
}

// RotateSecrets seals every secret of the node with a new key, and gives their number.
func (c *Client) RotateSecrets(ctx context.Context) (int, error) {
	var out struct {
		Secrets int `json:"secrets"`
	}
	err := c.call(ctx, http.MethodPost, "/v1/system/secrets/rotate", nil, nil, &out)
	return out.Secrets, err
}
