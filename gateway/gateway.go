// Package gateway is the public door: it matches an HTTP request to a function, hands it to the
// [lambent.Invoker] and streams the answer back.
//
// A function is reached at /fn/{name}[.{namespace}][:{alias}]/{path...} on any host, and at every path of the
// host {name}.{namespace}.localhost, which gives each function a cookie origin of its own. The function sees
// the path behind its name, as the client wrote it. Where no alias is named it is latest. Custom routes lead
// from other hosts and paths to functions; see [route.Routes].
package gateway

import (
	"net"
	"net/http"
	"strings"
	"time"

	"lambent"
	"lambent/gateway/route"
	"lambent/internal/inbound"
	"lambent/observe/trace"
)

// Options configure a Gateway. All but Public, Closing and Tally are needed.
type Options struct {
	Table   *route.Table
	Routes  *route.Routes
	Invoker lambent.Invoker
	// Authenticate tells whose key a request carries; ok is false if it carries none that is valid.
	Authenticate func(*http.Request) (who lambent.Principal, ok bool)
	// Public is the auth of functions that say none; it is for listeners that only this machine reaches.
	Public bool
	// Closing tells whether connections are closed once they had their answer.
	Closing func() bool
	Tally   *Tally // counts what has no end of its own
}

// Gateway serves functions over HTTP.
type Gateway struct{ opt Options }

// New makes a Gateway.
func New(opt Options) *Gateway {
	if opt.Closing == nil {
		opt.Closing = func() bool { return false }
	}
	if opt.Tally == nil {
		opt.Tally = new(Tally)
	}
	return &Gateway{opt}
}

var _ http.Handler = (*Gateway)(nil)

// ServeHTTP implements [http.Handler].
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	accepted := time.Now()
	at, err := g.match(w.Header(), r)
	if err != nil {
		lambent.WriteError(w, err)
		return
	}
	f, ok := g.opt.Table.Lookup(at.namespace, at.name)
	if !ok {
		lambent.WriteError(w, lambent.Errorf(lambent.CodeFunctionNotFound, "there is no function %q in namespace %q", at.name, at.namespace).
			WithHint("deploy it with: lambent deploy DIR --name %s", at.name))
		return
	}
	alias, rev := lambent.LatestAlias, f.Latest
	if at.alias != lambent.LatestAlias {
		a, ok := g.opt.Table.Alias(at.namespace, at.name, at.alias)
		if !ok {
			lambent.WriteError(w, lambent.Errorf(lambent.CodeNotFound, "function %q has no alias %q", at.name, at.alias).
				WithHint("see what it has with: lambent alias ls %s", at.name))
			return
		}
		alias, rev = a.Name, a.Pick(r.Header, at.target)
	}
	// A function that has been closed is closed at its older revisions, too.
	if err := g.admit(r, at, g.keyed(f.Latest) || g.keyed(rev)); err != nil {
		if err.Code == lambent.CodeUnauthorized {
			w.Header().Set("WWW-Authenticate", `Bearer realm="lambent"`)
		}
		lambent.WriteError(w, err)
		return
	}
	inv := &lambent.Invocation{
		ID: lambent.NewID(), Alias: alias, Revision: rev, Trigger: lambent.TriggerHTTP, Accepted: accepted,
		Method: r.Method, Target: at.target, Host: r.Host, Header: r.Header, ContentLength: r.ContentLength,
		Upgrade: upgrade(r), Route: at.route, PathParameters: at.params,
	}
	prepare(r, inv)
	g.serve(w, r, inv)
}

// admit tells whether the caller may invoke the function at at, which is keyed or not. It takes a key of the platform
// out of the request: it is none of any function's business.
func (g *Gateway) admit(r *http.Request, at address, keyed bool) *lambent.Error {
	var who lambent.Principal
	known := false
	if r.Header["Authorization"] != nil {
		if who, known = g.opt.Authenticate(r); known {
			r.Header.Del("Authorization")
		}
	}
	switch {
	case !keyed:
		return nil
	case !known:
		return lambent.Errorf(lambent.CodeUnauthorized, "%s/%s takes callers with a key only", at.namespace, at.name).
			WithHint("send the header: Authorization: Bearer KEY")
	}
	return lambent.ErrorOf(who.Require(at.namespace, lambent.RoleInvoke))
}

// keyed tells whether rev takes callers with a key only.
func (g *Gateway) keyed(rev *lambent.Revision) bool {
	auth := rev.Settings.Auth
	return auth == lambent.AuthKey || auth == "" && !g.opt.Public
}

// upgrade gives the protocol that r asks to switch to.
func upgrade(r *http.Request) string {
	if r.ProtoMajor == 1 && len(r.Header["Connection"]) > 0 && hasToken(r.Header["Connection"], "upgrade") {
		return r.Header.Get("Upgrade")
	}
	return ""
}

func hasToken(values []string, token string) bool {
	for _, v := range values {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}

// hopByHop are the fields that concern one connection only (RFC 9110, section 7.6.1).
var hopByHop = []string{"Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// prepare turns the header that the client sent into the one that the function gets.
func prepare(r *http.Request, inv *lambent.Invocation) {
	h := r.Header
	for _, v := range h["Connection"] {
		for token := range strings.SplitSeq(v, ",") {
			h.Del(strings.TrimSpace(token))
		}
	}
	for _, name := range hopByHop {
		delete(h, name)
	}
	values := make([]string, 0, 5) // of all fields set here: one allocation, not one each
	set := func(name, value string) {
		values = append(values, value)
		h[name] = values[len(values)-1 : len(values) : len(values)]
	}
	if id := h.Get("X-Request-Id"); !validRequestID(id) {
		set("X-Request-Id", inv.ID)
	}
	trace.Continue(h)
	client, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		client = r.RemoteAddr
	}
	if prior := h["X-Forwarded-For"]; len(prior) > 0 {
		client = strings.Join(prior, ", ") + ", " + client
	}
	proto := "http"
	if r.TLS != nil {
		proto = "https"
	}
	set("X-Forwarded-For", client)
	set("X-Forwarded-Proto", proto)
	set("X-Forwarded-Host", r.Host)
	delete(h, "X-Forwarded-Prefix")
	if prefix := mount(r, inv.Target); prefix != "" {
		set("X-Forwarded-Prefix", prefix)
	}
}

// mount gives the path that the client sees before the target, so that a function can write links; "" where there
// is none, or where the target is no part of what was asked for. It begins with one slash: browsers take what is
// between two and the next for a host.
func mount(r *http.Request, target string) string {
	asked := r.RequestURI
	if !strings.HasPrefix(asked, "/") {
		asked = r.URL.RequestURI() // absolute form
	}
	if path := strings.TrimLeft(asked, "/"); len(path) < len(asked) {
		asked = asked[len(asked)-len(path)-1:]
	} else {
		asked = "/" + asked
	}
	asked, _, _ = strings.Cut(asked, "?")
	target, _, _ = strings.Cut(target, "?")
	if target == "/" {
		return strings.TrimSuffix(asked, "/")
	}
	prefix, found := strings.CutSuffix(asked, target)
	if !found {
		return ""
	}
	return prefix
}

func validRequestID(id string) bool {
	if id == "" || len(id) > 128 {
		return false
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return false
		}
	}
	return true
}

func (g *Gateway) serve(w http.ResponseWriter, r *http.Request, inv *lambent.Invocation) {
	body, end, err := inbound.Body(w, r, inv.Revision.Settings.MaxBody)
	defer end()
	if err != nil {
		lambent.WriteError(w, lambent.ErrorOf(err))
		return
	}
	inv.Body, inv.Trailer = body, r.Trailer
	h := w.Header()
	h["X-Request-Id"] = r.Header["X-Request-Id"]
	h["Lambent-Invocation"] = []string{inv.ID}
	resp, err := g.opt.Invoker.Invoke(r.Context(), inv)
	if err != nil {
		e := *lambent.ErrorOf(err)
		e.Trace = "" // for those who administer the function, not for its callers
		lambent.WriteError(w, &e)
		return
	}
	rc := http.NewResponseController(w)
	if isEventStream(resp) {
		defer g.opt.Tally.follow(resp, inv)()
	}
	if resp.Status == http.StatusSwitchingProtocols {
		g.switchProtocols(w, rc, resp, inv)
		return
	}
	writeHead(h, resp)
	if g.opt.Closing() {
		h["Connection"] = []string{"close"}
	}
	w.WriteHeader(resp.Status)
	err = copyBody(w, rc, resp, bound{idle: inv.Revision.Settings.Timeouts.Idle.D(), set: rc.SetWriteDeadline})
	if err == nil {
		for name, values := range resp.Trailer {
			h[http.TrailerPrefix+name] = values
		}
	}
	if cerr := resp.Body.Close(); err != nil || cerr != nil {
		// The head is gone: only a cut connection tells the client that this is not the whole answer.
		panic(http.ErrAbortHandler)
	}
}
