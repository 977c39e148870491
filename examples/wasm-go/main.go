//go:build wasip1

// Command pick answers with one value of the JSON that it is sent: POST /?path=items.0.name.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/url"

	"pick/lambent"
)

// sample stands for the body of the request that warms the program up, when it is deployed: what encoding/json prepares
// then is prepared for every request.
const sample = `{"warm": [true]}`

func init() { lambent.Handle(serve) }

func serve(w *lambent.ResponseWriter, r *lambent.Request) {
	query, err := url.ParseQuery(r.Query)
	if err != nil {
		fail(w, 400, err)
		return
	}
	body := r.Body
	if r.Method == "GET" {
		body = bytes.NewReader([]byte(sample))
	}
	value, err := pick(body, query.Get("path"))
	switch {
	case errors.Is(err, errAbsent):
		fail(w, 404, err)
	case err != nil:
		fail(w, 400, err)
	default:
		w.Header.Set("Content-Type", "application/json")
		out := json.NewEncoder(w)
		out.SetEscapeHTML(false)
		_ = out.Encode(value) // writing never fails, and the value was JSON
	}
}

func fail(w *lambent.ResponseWriter, status int, err error) {
	w.Header.Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	w.WriteString(err.Error() + "\n")
}

func main() {}
