// Package client is the Go client of Lambent's control API. Errors are *lambent.Error: the platform's own,
// or one that says why the platform could not be asked.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"

	"lambent"
)

// Client speaks to one control API. It may be used by many goroutines.
type Client struct {
	url  string
	key  string
	http *http.Client
}

// New makes a client of the API at rawURL, such as http://127.0.0.1:8081. The key may be empty.
func New(rawURL, key string) (*Client, error) {
	u, err := url.Parse(rawURL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, lambent.Errorf(lambent.CodeInvalidRequest, "%q is no URL of a control API", rawURL).
			WithHint("use one such as http://127.0.0.1:8081")
	}
	return &Client{url: strings.TrimSuffix(rawURL, "/"), key: key, http: &http.Client{}}, nil
}

// Trust lets c also trust in servers that show one of the certificates in pem, or one that those have signed. It must
// come before the first request.
func (c *Client) Trust(pem []byte) error {
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool() // this machine trusts in nobody
	}
	if !roots.AppendCertsFromPEM(pem) {
		return lambent.Errorf(lambent.CodeInvalidRequest, "there is no certificate among those to trust in").WithHint("name a PEM file")
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	c.http.Transport = transport
	return nil
}

// Public sends a request as it is, to a URL that functions are at, and follows no redirection.
func (c *Client) Public(req *http.Request) (*http.Response, error) {
	once := http.Client{Transport: c.http.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := once.Do(req)
	if err != nil {
		return nil, lambent.Errorf(lambent.CodeInternal, "cannot reach the function: %w", err)
	}
	return resp, nil
}

// URL is where the client sends its requests.
func (c *Client) URL() string { return c.url }

// segments joins path segments and escapes each.
func segments(names ...string) string {
	var path strings.Builder
	for _, name := range names {
		path.WriteByte('/')
		path.WriteString(url.PathEscape(name))
	}
	return path.String()
}

func functionPath(namespace, name string) string {
	return segments("v1", "namespaces", namespace, "functions", name)
}

// send makes a request and gives its answer, whatever its status.
func (c *Client) send(ctx context.Context, method, path string, header http.Header, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.url+path, body)
	if err != nil {
		return nil, lambent.Errorf(lambent.CodeInvalidRequest, "%w", err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	return resp, nil
}

func (c *Client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return lambent.ErrorOf(ctx.Err())
	}
	e := lambent.Errorf(lambent.CodeInternal, "cannot reach %s: %w", c.url, err)
	var ue *url.Error
	if errors.As(err, &ue) {
		e.Message = fmt.Sprintf("cannot reach %s: %v", c.url, ue.Err)
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		e.Message = fmt.Sprintf("cannot reach %s", c.url)
		e.Hint = "is `lambent up` running?"
	}
	return e
}

// call is send for requests with a JSON answer, which it reads into out unless that is nil.
func (c *Client) call(ctx context.Context, method, path string, header http.Header, body io.Reader, out any) error {
	resp, err := c.send(ctx, method, path, header, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return errorIn(resp)
	}
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return c.strange(resp, err)
	}
	return nil
}

func (c *Client) get(ctx context.Context, path string, query url.Values, out any) error {
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return c.call(ctx, http.MethodGet, path, nil, nil, out)
}

func (c *Client) strange(resp *http.Response, cause error) error {
	return lambent.Errorf(lambent.CodeInternal, "%s gave an answer (%s) that is not of Lambent's control API: %w", c.url, resp.Status, cause).
		WithHint("check the URL")
}

// maxError bounds what is read of an error: a trace has some hundred lines.
const maxError = 1 << 20

// errorIn reads the error that resp carries.
func errorIn(resp *http.Response) error {
	var answer struct {
		Error *lambent.Error `json:"error"`
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxError))
	if err == nil && json.Unmarshal(raw, &answer) == nil && answer.Error != nil && answer.Error.Code != "" {
		return answer.Error
	}
	if resp.Request.Method == http.MethodHead && resp.StatusCode == http.StatusNotFound {
		return lambent.Errorf(lambent.CodeNotFound, "there is nothing at %s", resp.Request.URL.Path)
	}
	code := lambent.CodeInternal
	if resp.StatusCode == http.StatusUnauthorized {
		code = lambent.CodeUnauthorized
	}
	return lambent.Errorf(code, "%s answered %s, not in Lambent's way", resp.Request.URL.Redacted(), resp.Status).
		WithHint("check the URL")
}

func jsonBody(v any) (http.Header, io.Reader, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, nil, lambent.Errorf(lambent.CodeInvalidRequest, "%w", err)
	}
	return http.Header{"Content-Type": {"application/json"}}, bytes.NewReader(raw), nil
}

// ifMatch asks for a version of the resource, unless it is 0.
func ifMatch(header http.Header, version uint64) {
	if version != 0 {
		header.Set("If-Match", strconv.Quote(strconv.FormatUint(version, 10)))
	}
}
