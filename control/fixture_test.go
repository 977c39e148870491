package control_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"lambent"
	"lambent/control"
	"lambent/control/controltest"
)

// world is the API and a client that checks its answers.
type world struct {
	*controltest.World
	t *testing.T
}

func newWorld(t *testing.T) *world { return &world{controltest.New(t), t} }

// do sends a request with the key and gives the answer with its body read.
func (w *world) do(method, path, body string, header ...string) (*http.Response, string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.URL+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+controltest.Key)
	for i := 0; i < len(header); i += 2 {
		if header[i+1] == "" {
			req.Header.Del(header[i])
		} else {
			req.Header.Set(header[i], header[i+1])
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp, string(raw)
}

// fails sends a request that must be answered with an error of the code, and gives the error.
func (w *world) fails(code lambent.Code, method, path, body string, header ...string) *lambent.Error {
	w.t.Helper()
	resp, raw := w.do(method, path, body, header...)
	var answer struct {
		Error *lambent.Error `json:"error"`
	}
	dec := json.NewDecoder(strings.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&answer); err != nil || answer.Error == nil {
		w.t.Fatalf("%s %s: %s %q is not in the error format (%v)", method, path, resp.Status, raw, err)
	}
	e := answer.Error
	if e.Code != code || e.Status() != resp.StatusCode || e.Fault != lambent.Errorf(code, "").Fault || e.Message == "" {
		w.t.Fatalf("%s %s: %s %s, want code %s", method, path, resp.Status, raw, code)
	}
	if ct := resp.Header.Get("Content-Type"); ct != "application/json" {
		w.t.Errorf("%s %s: content type %q", method, path, ct)
	}
	return e
}

// gives sends a request that must be answered with the status, and reads the answer into out.
func (w *world) gives(status int, out any, method, path, body string, header ...string) *http.Response {
	w.t.Helper()
	resp, raw := w.do(method, path, body, header...)
	if resp.StatusCode != status {
		w.t.Fatalf("%s %s: %s %s, want %d", method, path, resp.Status, raw, status)
	}
	if out != nil {
		if err := json.Unmarshal([]byte(raw), out); err != nil {
			w.t.Fatalf("%s %s: %v in %q", method, path, err, raw)
		}
	}
	return resp
}

func (w *world) upload(content string) (digest string) {
	w.t.Helper()
	var b control.Bundle
	w.gives(200, &b, "PUT", "/v1/code", content)
	if b.Size != int64(len(content)) {
		w.t.Fatalf("size %d of %d bytes", b.Size, len(content))
	}
	return b.Digest
}

const hello = "/v1/namespaces/default/functions/hello"

func deployBody(settings, digest string) string {
	return `{"settings": ` + settings + `, "code": "` + digest + `"}`
}
