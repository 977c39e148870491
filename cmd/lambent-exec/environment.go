package main

import (
	"errors"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// environment gives the meta-variables of a request (RFC 3875, section 4.1) on top of our own environment.
func (s *server) environment(r *http.Request) ([]string, error) {
	env := maps.Clone(s.env)
	h := r.Header
	maps.Copy(env, map[string]string{
		"GATEWAY_INTERFACE": "CGI/1.1", "SERVER_PROTOCOL": r.Proto, "SERVER_SOFTWARE": "lambent",
		"REQUEST_METHOD": r.Method, "REQUEST_URI": r.RequestURI,
		"SCRIPT_NAME": h.Get("X-Forwarded-Prefix"), "PATH_INFO": r.URL.Path, "QUERY_STRING": r.URL.RawQuery,
		"HTTP_HOST": r.Host, "SERVER_NAME": r.Host, "SERVER_PORT": "80",
		"LAMBENT_INVOCATION": h.Get("Lambent-Invocation"), "LAMBENT_TRIGGER": h.Get("Lambent-Trigger"),
		"LAMBENT_DEADLINE": h.Get("Lambent-Deadline"),
	})
	if h.Get("X-Forwarded-Proto") == "https" {
		env["HTTPS"], env["SERVER_PORT"] = "on", "443"
	}
	if host, port, err := net.SplitHostPort(r.Host); err == nil {
		env["SERVER_NAME"], env["SERVER_PORT"] = host, port
	}
	if hops := h.Get("X-Forwarded-For"); hops != "" { // the last is the one that the gateway saw itself
		client := strings.TrimSpace(hops[strings.LastIndexByte(hops, ',')+1:])
		env["REMOTE_ADDR"], env["REMOTE_HOST"] = client, client
	}
	if r.ContentLength > 0 {
		env["CONTENT_LENGTH"] = strconv.FormatInt(r.ContentLength, 10)
	}
	if kind := h.Get("Content-Type"); kind != "" {
		env["CONTENT_TYPE"] = kind
	}
	if attempt := h.Get("Lambent-Attempt"); attempt != "" {
		env["LAMBENT_ATTEMPT"] = attempt
	}
	if route, err := url.PathUnescape(h.Get("Lambent-Route")); err == nil && route != "" {
		env["LAMBENT_ROUTE"], env["LAMBENT_PATH_PARAMETERS"] = route, h.Get("Lambent-Path-Parameters")
	}
	for name, values := range h {
		if passes(name) {
			separator := ", "
			if name == "Cookie" {
				separator = "; "
			}
			env["HTTP_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_"))] = strings.Join(values, separator)
		}
	}
	list := make([]string, 0, len(env))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if strings.IndexByte(env[name], 0) >= 0 {
			return nil, errors.New(name + " would hold a NUL byte, which no environment can")
		}
		list = append(list, name+"="+env[name])
	}
	return list, nil
}

// passes tells whether a field of a request becomes a variable. Proxy does not: HTTP_PROXY has a meaning of its
// own to many programs (CVE-2016-5385). Nor does a name with an underscore, which would pass for one with a hyphen.
func passes(name string) bool {
	switch name {
	case "Proxy", "Content-Type", "Content-Length", "Connection":
		return false
	}
	return !strings.Contains(name, "_") && !strings.HasPrefix(name, "Lambent-")
}
