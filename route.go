package lambent

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Route sends the requests to a host and path to a function.
type Route struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Version is the resource version for optimistic concurrency: it changes with every write.
	Version uint64    `json:"version"`
	Updated time.Time `json:"updated"`
	RouteSpec
}

// RouteSpec is what a user says about a route.
type RouteSpec struct {
	Host     string   `json:"host,omitempty"`    // a DNS name, "*." and a name for all names below it, or empty for every host
	Path     string   `json:"path"`              // such as "/users/{id}" or "/files/{rest...}"; see ParsePath
	Methods  []string `json:"methods,omitempty"` // empty for all; GET stands for HEAD too
	Function string   `json:"function"`
	Alias    string   `json:"alias,omitempty"` // default latest
	Strip    bool     `json:"strip,omitempty"` // the function sees only what {NAME...} stands for as the path, not the whole
}

const (
	maxPathSegments = 32
	maxPathBytes    = 1024
)

var (
	methodRE    = regexp.MustCompile(`^[A-Z][A-Z-]{0,31}$`)
	parameterRE = regexp.MustCompile(`^\{([A-Za-z_][A-Za-z0-9_]{0,62})(\.\.\.)?\}$`)
)

// Complete checks s and gives it with every default filled in, and in the one form that equal routes have.
// The error names the field.
func (s RouteSpec) Complete() (RouteSpec, error) {
	s.Host = strings.TrimSuffix(strings.ToLower(s.Host), ".")
	s.Alias = cmp.Or(s.Alias, LatestAlias)
	s.Methods = slices.Sorted(slices.Values(s.Methods))
	if err := checkHost(s.Host); err != nil {
		return s, err
	}
	segments, err := ParsePath(s.Path)
	switch {
	case err != nil:
		return s, Errorf(CodeInvalidRequest, "path: %w", err)
	case s.Host == "" && segments[0].Text == "fn" && !segments[0].Parameter():
		return s, Errorf(CodeInvalidRequest, "path: /fn/ is where functions are on every host").WithHint("choose another path, or give the route a host")
	case s.Strip && !segments[len(segments)-1].Rest:
		return s, Errorf(CodeInvalidRequest, "strip: %s does not end in a parameter for the rest of the path", s.Path).
			WithHint("end it in one such as {rest...}")
	}
	for i, m := range s.Methods {
		if !methodRE.MatchString(m) {
			return s, Errorf(CodeInvalidRequest, "methods: %q is no method", m).WithHint("use such as GET and POST, in capitals")
		}
		if i > 0 && m == s.Methods[i-1] {
			return s, Errorf(CodeInvalidRequest, "methods: %s is there twice", m)
		}
	}
	if err := CheckName("function", s.Function); err != nil {
		return s, err
	}
	if s.Alias == LatestAlias || IsPublished(s.Alias) {
		return s, nil
	}
	return s, CheckAlias(s.Alias)
}

func checkHost(host string) error {
	if host == "" {
		return nil
	}
	name := strings.TrimPrefix(host, "*.")
	if len(name) > 253 || !hostRE.MatchString(name) {
		return Errorf(CodeInvalidRequest, "host: %q is neither a DNS name nor *. and one", host).WithHint("write it without scheme and port")
	}
	_, err := netip.ParseAddr(name)
	if err == nil || name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return Errorf(CodeInvalidRequest, "host: %s is the platform's own", host).WithHint("addresses and names that end in localhost are; choose another")
	}
	return nil
}

// PathSegment is what stands between two slashes of a route's path: a literal, or a parameter.
type PathSegment struct {
	Text string // the literal
	Name string // of the parameter; "" for a literal
	Rest bool   // the parameter stands for all segments that follow, and comes last
}

// Parameter tells whether the segment is a parameter.
func (s PathSegment) Parameter() bool { return s.Name != "" }

// ParsePath reads a route's path. Each segment is a literal, written as it is and not escaped; or {NAME}, which
// stands for any one segment that is not empty; or, at the end, {NAME...} for one segment or more, of which
// the last may be empty: /files/{rest...} is all below /files/, and /files/ itself.
func ParsePath(path string) ([]PathSegment, error) {
	if !strings.HasPrefix(path, "/") || len(path) > maxPathBytes {
		return nil, fmt.Errorf("%.60q is no path of at most %d bytes that begins with /", path, maxPathBytes)
	}
	texts := strings.Split(path[1:], "/")
	if len(texts) > maxPathSegments {
		return nil, fmt.Errorf("it has more than %d segments", maxPathSegments)
	}
	segments := make([]PathSegment, len(texts))
	seen := map[string]bool{}
	for i, text := range texts {
		last := i == len(texts)-1
		if m := parameter(text); m != nil {
			s := PathSegment{Name: m[1], Rest: m[2] != ""}
			switch {
			case seen[s.Name]:
				return nil, fmt.Errorf("the parameter {%s} is there twice", s.Name)
			case s.Rest && !last:
				return nil, fmt.Errorf("%s stands for the rest of the path, so it must come last", text)
			}
			seen[s.Name], segments[i] = true, s
			continue
		}
		switch {
		case text == "" && !last:
			return nil, fmt.Errorf("%s has an empty segment", path)
		case text == "." || text == "..":
			return nil, fmt.Errorf("%s has the segment %s, which no client sends", path, text)
		case strings.ContainsAny(text, `{}?#%\`) || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }):
			return nil, fmt.Errorf(`%q is neither {NAME}, {NAME...} nor a text without any of {}?#%%\`, text)
		}
		segments[i].Text = text
	}
	return segments, nil
}

// parameter gives the name and the dots of a parameter, nil for other texts.
func parameter(text string) []string {
	if !strings.HasPrefix(text, "{") {
		return nil
	}
	return parameterRE.FindStringSubmatch(text)
}

// shape is the path without the parameters' names: two paths of one shape match the same requests.
func shape(path string) string {
	segments := strings.Split(path, "/")
	for i, s := range segments {
		if m := parameter(s); m != nil {
			segments[i] = "{" + m[2] + "}"
		}
	}
	return strings.Join(segments, "/")
}

// Conflicts tells whether s and o, both complete, are about the same requests, so that one of them would be in
// vain. A route for some methods may stand beside one for all: it goes first.
func (s *RouteSpec) Conflicts(o *RouteSpec) bool {
	if s.Host != o.Host || shape(s.Path) != shape(o.Path) {
		return false
	}
	if len(s.Methods) == 0 || len(o.Methods) == 0 {
		return len(s.Methods) == len(o.Methods)
	}
	return slices.ContainsFunc(s.Methods, func(m string) bool { return slices.Contains(o.Methods, m) })
}

// SharesHost tells whether there is a host that both s and o, complete and with a host, are about.
func (s *RouteSpec) SharesHost(o *RouteSpec) bool {
	return s.Host == o.Host || covers(s.Host, o.Host) || covers(o.Host, s.Host)
}

// covers tells whether wildcard is one, and host, which may be one too, is below it.
func covers(wildcard, host string) bool {
	below, ok := strings.CutPrefix(wildcard, "*")
	return ok && strings.HasSuffix(host, below)
}

// String is the route as people read it: "GET,POST example.com/users/{id}".
func (s *RouteSpec) String() string {
	methods := strings.Join(s.Methods, ",")
	if methods == "" {
		methods = "ANY"
	}
	return methods + " " + cmp.Or(s.Host, "*") + s.Path
}
