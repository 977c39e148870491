package main

import (
	"net/http"
	"strings"

	"lambent/internal/cgi"
)

// environment gives the variables of a request on top of our own environment.
func (s *server) environment(r *http.Request) ([]string, error) {
	q := cgi.Request{Method: r.Method, Target: r.RequestURI, Host: r.Host, Proto: r.Proto, Length: r.ContentLength}
	for name, values := range r.Header {
		for _, value := range values {
			q.Header = append(q.Header, cgi.Field{Name: name, Value: value})
		}
	}
	block, _, err := q.Environment(s.env)
	return strings.Split(strings.TrimSuffix(string(block), "\x00"), "\x00"), err
}
