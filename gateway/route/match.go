package route

import (
	"iter"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"lambent"
)

// Routes match requests by host, path and method. The zero value is ready and matches nothing.
//
// The most specific host that has a route for the path decides: the name itself, then the longest wildcard,
// then any host. There the most specific path does, segment by segment from the left: a literal before {NAME}
// before {NAME...}. Its methods come last: when the request's is not among them, no other route is asked.
//
// A path is compared by its segments, each decoded on its own, so an encoded slash does not separate. Empty
// segments are skipped, since servers differ in whether they are there: //admin goes where /admin goes. A path
// that could be read as climbing up (a segment . or .., encoded or not, also behind an encoded slash or a
// backslash or in front of a semicolon) or that has a NUL matches nothing.
//
// Reads take no lock and, where there are no routes, do nothing.
type Routes struct {
	hosts atomic.Pointer[map[string]*node] // by host; nil when there are none
	mu    sync.Mutex
	all   map[string]map[routeName]*target // what hosts is made of, by host; guarded by mu
	at    map[routeName]string             // the host of each; guarded by mu
	stale map[string]bool                  // hosts that have changed since Publish; guarded by mu
}

type routeName struct{ namespace, name string }

// target is a route with its path read.
type target struct {
	*lambent.Route
	segments []lambent.PathSegment
}

// node is a place in the tree of one host's paths. Trees are never changed, only replaced.
type node struct {
	literal map[string]*node
	param   *node
	here    *leaf // of paths that end here
	rest    *leaf // of paths that go on
}

// leaf is the routes of one path.
type leaf struct {
	byMethod map[string]*target
	other    *target // for all other methods
	allow    string
}

// Set puts r in the place of the one of its name, if there is one. It takes effect with the next Publish. The
// error says what is wrong with its path.
func (t *Routes) Set(r *lambent.Route) error {
	segments, err := lambent.ParsePath(r.Path)
	if err == nil {
		t.change(routeName{r.Namespace, r.Name}, &target{r, segments})
	}
	return err
}

// Delete takes a route out. It takes effect with the next Publish.
func (t *Routes) Delete(namespace, name string) { t.change(routeName{namespace, name}, nil) }

func (t *Routes) change(name routeName, r *target) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all == nil {
		t.all, t.at, t.stale = map[string]map[routeName]*target{}, map[routeName]string{}, map[string]bool{}
	}
	if host, ok := t.at[name]; ok {
		delete(t.all[host], name)
		delete(t.at, name)
		t.stale[host] = true
	}
	if r != nil {
		if t.all[r.Host] == nil {
			t.all[r.Host] = map[routeName]*target{}
		}
		t.all[r.Host][name], t.at[name], t.stale[r.Host] = r, r.Host, true
	}
}

// Publish lets the changes take effect, all at once.
func (t *Routes) Publish() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.stale) == 0 {
		return
	}
	hosts := map[string]*node{}
	if now := t.hosts.Load(); now != nil {
		hosts = maps.Clone(*now)
	}
	for host := range t.stale {
		if len(t.all[host]) == 0 {
			delete(t.all, host)
			delete(hosts, host)
			continue
		}
		hosts[host] = tree(maps.Values(t.all[host]))
	}
	clear(t.stale)
	if len(hosts) == 0 {
		t.hosts.Store(nil)
		return
	}
	t.hosts.Store(&hosts)
}

func tree(routes iter.Seq[*target]) *node {
	root := &node{}
	for r := range routes {
		at, end := root, (**leaf)(nil)
		for _, s := range r.segments {
			switch {
			case s.Rest:
				end = &at.rest
			case s.Parameter():
				if at.param == nil {
					at.param = &node{}
				}
				at = at.param
			default:
				next := at.literal[s.Text]
				if next == nil {
					if at.literal == nil {
						at.literal = map[string]*node{}
					}
					next = &node{}
					at.literal[s.Text] = next
				}
				at = next
			}
		}
		if end == nil {
			end = &at.here
		}
		if *end == nil {
			*end = &leaf{byMethod: map[string]*target{}}
		}
		(*end).add(r)
	}
	return root
}

func (l *leaf) add(r *target) {
	if len(r.Methods) == 0 {
		l.other = r
		return
	}
	for _, m := range r.Methods {
		l.byMethod[m] = r
	}
	allowed := slices.Collect(maps.Keys(l.byMethod))
	if l.byMethod["GET"] != nil && l.byMethod["HEAD"] == nil {
		allowed = append(allowed, "HEAD")
	}
	slices.Sort(allowed)
	l.allow = strings.Join(allowed, ", ")
}

func (l *leaf) route(method string) *target {
	r := l.byMethod[method]
	if r == nil && method == "HEAD" {
		r = l.byMethod["GET"]
	}
	if r == nil {
		r = l.other
	}
	return r
}

// Match is what a request matched.
type Match struct {
	Route *lambent.Route // nil when there is none, or none for the method
	Allow string         // the methods that the path has, when the request's is not among them
	// Unclear says that the path could be read in more ways than one, so that nothing is matched.
	Unclear bool

	segments []lambent.PathSegment
	path     string
}

// Has tells whether a host, in lower case and without port, has routes of its own. On such a host nothing but
// routes is served: what others may put elsewhere must not share its origin.
func (t *Routes) Has(host string) bool {
	hosts := t.hosts.Load()
	if hosts == nil {
		return false
	}
	for at := range levels(host) {
		if (*hosts)[at] != nil && at != "" {
			return true
		}
	}
	return false
}

// levels gives the hosts whose routes a host has, the most specific first.
func levels(host string) iter.Seq[string] {
	return func(yield func(string) bool) {
		if !yield(host) {
			return
		}
		var buf [256]byte // so that no wildcard is allocated
		for rest := host; ; {
			dot := strings.IndexByte(rest, '.')
			if dot < 0 || len(rest) >= len(buf) {
				break
			}
			rest = rest[dot+1:]
			wildcard := append(append(buf[:0], "*."...), rest...)
			if !yield(string(wildcard)) {
				return
			}
		}
		if host != "" {
			yield("")
		}
	}
}

// maxSegments is one more than any route's path has: what is behind is matched by {NAME...} only.
const maxSegments = 33

// Find matches a request: its host in lower case and without port, and its path as the client wrote it,
// without the query.
func (t *Routes) Find(host, path, method string) Match {
	hosts := t.hosts.Load()
	if hosts == nil {
		return Match{}
	}
	var buf [maxSegments]string
	segments, clear := split(path, buf[:0])
	if !clear {
		return Match{Unclear: true}
	}
	for at := range levels(host) {
		root := (*hosts)[at]
		if root == nil {
			continue
		}
		if l := root.find(segments); l != nil {
			r := l.route(method)
			if r == nil {
				return Match{Allow: l.allow}
			}
			return Match{Route: r.Route, segments: r.segments, path: path}
		}
	}
	return Match{}
}

func (n *node) find(segments []string) *leaf {
	if len(segments) == 0 {
		return n.here
	}
	if next := n.literal[segments[0]]; next != nil {
		if l := next.find(segments[1:]); l != nil {
			return l
		}
	}
	if n.param != nil && segments[0] != "" {
		if l := n.param.find(segments[1:]); l != nil {
			return l
		}
	}
	return n.rest
}

// raw gives the segments of a path as they are written, and where each begins: all that are not empty, and the
// last.
func raw(path string) iter.Seq2[int, string] {
	return func(yield func(int, string) bool) {
		for begin := 1; begin <= len(path); {
			end := strings.IndexByte(path[begin:], '/')
			if end < 0 {
				yield(begin, path[begin:])
				return
			}
			if end > 0 && !yield(begin, path[begin:begin+end]) {
				return
			}
			begin += end + 1
		}
	}
}

// split gives the first segments of path, decoded, in buf; clear is false for paths that match nothing.
func split(path string, buf []string) (segments []string, clear bool) {
	if !strings.HasPrefix(path, "/") {
		return nil, false
	}
	for _, s := range raw(path) {
		if strings.IndexByte(s, '%') >= 0 {
			var err error
			if s, err = url.PathUnescape(s); err != nil {
				return nil, false
			}
		}
		if !plain(s) {
			return nil, false
		}
		if len(buf) < cap(buf) {
			buf = append(buf, s)
		}
	}
	return buf, true
}

// plain tells whether no reader of the decoded segment s finds a . or .. or the end of a text in it.
func plain(s string) bool {
	if strings.IndexByte(s, '.') < 0 && strings.IndexByte(s, 0) < 0 {
		return true
	}
	for part := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == '/' || r == '\\' }) {
		part, _, _ = strings.Cut(part, ";")
		if part == "." || part == ".." || strings.IndexByte(part, 0) >= 0 {
			return false
		}
	}
	return true
}

// Params gives what the parameters of the route stand for, nil when it has none.
func (m Match) Params() url.Values {
	if m.Route == nil || strings.IndexByte(m.Route.Path, '{') < 0 {
		return nil
	}
	params := url.Values{}
	m.walk(func(s lambent.PathSegment, text string) {
		if value, err := url.PathUnescape(text); err == nil { // Find has seen that it can be
			params.Set(s.Name, value)
		}
	})
	return params
}

// Target gives the path that the function is to see, as the client wrote it.
func (m Match) Target() string {
	target := m.path
	if m.Route.Strip {
		m.walk(func(_ lambent.PathSegment, text string) { target = "/" + text })
	}
	return target
}

// walk gives the parameters, and what each stands for as the client wrote it.
func (m Match) walk(do func(lambent.PathSegment, string)) {
	i := 0
	for begin, text := range raw(m.path) {
		switch s := m.segments[i]; {
		case s.Rest:
			do(s, m.path[begin:])
			return
		case s.Parameter():
			do(s, text)
		}
		if i++; i == len(m.segments) {
			return
		}
	}
}
