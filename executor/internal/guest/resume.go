package guest

import "context"

// OnPort tells whether Ready has found the instance on its port.
func (c *Client) OnPort() bool { return c.onPort }

// Resume takes the place of Ready for an instance that another Client has found ready, on its port or not.
func (c *Client) Resume(onPort bool) {
	if onPort {
		c.usePort()
	}
}

// Ask asks a ready instance once more whether it is, and returns with its answer. An error says that it did not answer
// before ctx ended.
func (c *Client) Ask(ctx context.Context) error {
	_, err := c.ask(ctx, c.dialer)
	return err
}
