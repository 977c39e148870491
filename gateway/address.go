package gateway

import (
	"net/http"
	"net/url"
	"strings"

	"lambent"
)

const domain = ".localhost"

// address is what a request is for, and the target that the function shall see.
type address struct {
	namespace, name, alias, target string

	route  string // of a custom route: its method and path
	params url.Values
}

// match gives the address of r. Where it has none the error says why, and header tells the methods that there are.
// A host that has custom routes serves nothing else: functions of others would share its origin.
func (g *Gateway) match(header http.Header, r *http.Request) (at address, err *lambent.Error) {
	at.alias, at.target = lambent.LatestAlias, r.RequestURI
	if !strings.HasPrefix(at.target, "/") {
		at.target = r.URL.RequestURI() // absolute form
	}
	host := r.Host
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		host = host[:i]
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if labels, found := strings.CutSuffix(host, domain); found {
		if at.name, at.namespace, found = strings.Cut(labels, "."); found {
			return at, nil
		}
	} else if rest, found := strings.CutPrefix(at.target, "/fn/"); found && !g.opt.Routes.Has(host) {
		if at.named(rest) {
			return at, nil
		}
	} else {
		return at, g.custom(&at, host, header, r)
	}
	return at, nothing(r)
}

func nothing(r *http.Request) *lambent.Error {
	return lambent.Errorf(lambent.CodeNotFound, "nothing is at %s", r.URL.Path).
		WithHint("functions are at /fn/{name}/... and at http://{name}.{namespace}%s/...; lambent route set makes other places", domain)
}

// named reads what follows /fn/; it tells whether that names a function.
func (at *address) named(rest string) bool {
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	at.name, at.target = rest[:end], rest[end:]
	if !strings.HasPrefix(at.target, "/") {
		at.target = "/" + at.target
	}
	if name, alias, found := strings.Cut(at.name, ":"); found {
		at.name, at.alias = name, alias
	}
	found := false
	if at.name, at.namespace, found = strings.Cut(at.name, "."); !found {
		at.namespace = lambent.DefaultNamespace
	}
	return at.name != ""
}

// custom fills at in by the custom route that r matches.
func (g *Gateway) custom(at *address, host string, header http.Header, r *http.Request) *lambent.Error {
	path, query, asked := strings.Cut(at.target, "?")
	m := g.opt.Routes.Find(host, path, r.Method)
	switch {
	case m.Unclear:
		return lambent.Errorf(lambent.CodeInvalidRequest, "the path %s can be read in more than one way", r.URL.Path).
			WithHint("send it without the segments . and .., however they are written")
	case m.Allow != "":
		header.Set("Allow", m.Allow)
		return lambent.Errorf(lambent.CodeMethodNotAllowed, "%s does not take %s", r.URL.Path, r.Method).WithHint("use %s", m.Allow)
	case m.Route == nil:
		return nothing(r)
	}
	at.namespace, at.name, at.alias, at.target, at.params = m.Route.Namespace, m.Route.Function, m.Route.Alias, m.Target(), m.Params()
	if asked {
		at.target += "?" + query
	}
	at.route = "ANY " + m.Route.Path
	if len(m.Route.Methods) > 0 {
		at.route = r.Method + " " + m.Route.Path
	}
	return nil
}
