package cgi

import (
	"fmt"
	"net"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Request is what the environment of a program is made of. Fields whose names begin with Lambent- are the host's, as
// the package executor/internal/guest has them.
type Request struct {
	Method, Target, Host, Proto string
	Header                      []Field
	Length                      int64 // of the body; unknown when it is negative
}

// variable is one of the environment. Of several of one name the last counts, but the fields of the header of one name
// are one list.
type variable struct {
	name, value string
	separator   string // of a list
}

// Environment gives the variables of r (RFC 3875, section 4.1) on top of own, which has elements of the form
// name=value. Each ends in a NUL byte, and they are in the order of their names.
func (r *Request) Environment(own []string) (block []byte, count int, err error) {
	vars := make([]variable, 0, len(own)+len(r.Header)+20)
	for _, v := range own {
		name, value, _ := strings.Cut(v, "=")
		vars = append(vars, variable{name: name, value: value})
	}
	vars = r.append(vars)
	slices.SortStableFunc(vars, func(a, b variable) int { return strings.Compare(a.name, b.name) })
	vars = merge(vars)
	size := 0
	for _, v := range vars {
		size += len(v.name) + len(v.value) + 2
	}
	block = make([]byte, 0, size)
	for _, v := range vars {
		if strings.IndexByte(v.name, 0) >= 0 || strings.IndexByte(v.value, 0) >= 0 {
			return nil, 0, fmt.Errorf("%q would hold a NUL byte, which no environment can", v.name)
		}
		block = append(append(append(append(block, v.name...), '='), v.value...), 0)
	}
	return block, len(vars), nil
}

// merge makes one variable of those of one name, which are neighbours.
func merge(vars []variable) []variable {
	out := vars[:0]
	for _, v := range vars {
		last := len(out) - 1
		switch {
		case last < 0 || out[last].name != v.name:
			out = append(out, v)
		case v.separator != "" && out[last].separator != "":
			out[last].value += v.separator + v.value
		default:
			out[last] = v
		}
	}
	return out
}

func (r *Request) append(vars []variable) []variable {
	set := func(name, value string) { vars = append(vars, variable{name: name, value: value}) }
	path, query, _ := strings.Cut(r.Target, "?")
	if plain, err := url.PathUnescape(path); err == nil {
		path = plain
	}
	scheme, server, port := "http", r.Host, "80"
	set("SCRIPT_NAME", "")
	for _, f := range r.Header {
		name := textproto.CanonicalMIMEHeaderKey(f.Name)
		switch name {
		case "X-Forwarded-Proto":
			if f.Value == "https" {
				scheme, port = "https", "443"
				set("HTTPS", "on")
			}
		case "X-Forwarded-For": // the last is the one that the gateway saw itself
			client := strings.TrimSpace(f.Value[strings.LastIndexByte(f.Value, ',')+1:])
			set("REMOTE_ADDR", client)
			set("REMOTE_HOST", client)
		case "X-Forwarded-Prefix":
			set("SCRIPT_NAME", f.Value)
		case "Content-Type":
			set("CONTENT_TYPE", f.Value)
		case "Lambent-Invocation":
			set("LAMBENT_INVOCATION", f.Value)
		case "Lambent-Trigger":
			set("LAMBENT_TRIGGER", f.Value)
		case "Lambent-Deadline":
			set("LAMBENT_DEADLINE", f.Value)
		case "Lambent-Attempt":
			set("LAMBENT_ATTEMPT", f.Value)
		case "Lambent-Route":
			if route, err := url.PathUnescape(f.Value); err == nil {
				set("LAMBENT_ROUTE", route)
			}
		case "Lambent-Path-Parameters":
			set("LAMBENT_PATH_PARAMETERS", f.Value)
		}
		if passes(name) {
			separator := ", "
			if name == "Cookie" {
				separator = "; "
			}
			vars = append(vars, variable{"HTTP_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_")), f.Value, separator})
		}
	}
	if host, p, err := net.SplitHostPort(r.Host); err == nil {
		server, port = host, p
	}
	if r.Length > 0 {
		set("CONTENT_LENGTH", strconv.FormatInt(r.Length, 10))
	}
	return append(vars, []variable{
		{name: "GATEWAY_INTERFACE", value: "CGI/1.1"}, {name: "SERVER_PROTOCOL", value: r.Proto}, {name: "SERVER_SOFTWARE", value: "lambent"},
		{name: "REQUEST_METHOD", value: r.Method}, {name: "REQUEST_URI", value: r.Target},
		{name: "PATH_INFO", value: path}, {name: "QUERY_STRING", value: query},
		{name: "HTTP_HOST", value: r.Host}, {name: "SERVER_NAME", value: server}, {name: "SERVER_PORT", value: port},
		{name: "X_FULL_URL", value: scheme + "://" + r.Host + r.Target},
	}...)
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
