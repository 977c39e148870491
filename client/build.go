package client

import (
	"context"
	"encoding/json"
	"net/http"

	"lambent"
)

// Build gives the code of an uploaded source: the source itself where there is nothing to build. The runtime may be a
// family such as "python". log gets the lines that the tools write, as they come. The end of ctx cancels the build.
func (c *Client) Build(ctx context.Context, namespace string, b lambent.Build, log func(line string)) (*lambent.Built, error) {
	header, body, err := jsonBody(b)
	if err != nil {
		return nil, err
	}
	resp, err := c.send(ctx, http.MethodPost, segments("v1", "namespaces", namespace, "builds"), header, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errorIn(resp)
	}
	for dec := json.NewDecoder(resp.Body); ; {
		var line struct {
			Log   *string        `json:"log"`
			Built *lambent.Built `json:"built"`
			Error *lambent.Error `json:"error"`
		}
		switch err := dec.Decode(&line); {
		case err != nil && ctx.Err() != nil:
			return nil, lambent.ErrorOf(ctx.Err())
		case err != nil:
			return nil, lambent.Errorf(lambent.CodeInternal, "the answer to the build broke off: %w", err)
		case line.Error != nil:
			return nil, line.Error
		case line.Built != nil:
			return line.Built, nil
		case line.Log != nil:
			log(*line.Log)
		}
	}
}
