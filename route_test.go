package lambent

import (
	"strings"
	"testing"
)

func TestRouteSpec(t *testing.T) {
	valid := RouteSpec{Host: "Example.com.", Path: "/users/{id}", Methods: []string{"POST", "GET"}, Function: "f"}
	got, err := valid.Complete()
	if err != nil || got.Host != "example.com" || got.Alias != LatestAlias || got.String() != "GET,POST example.com/users/{id}" {
		t.Errorf("%+v, %v", got, err)
	}
	for part, change := range map[string]func(*RouteSpec){
		"neither a DNS name":    func(s *RouteSpec) { s.Host = "http://x" },
		"without scheme and":    func(s *RouteSpec) { s.Host = "x.example:80" },
		"is the platform's own": func(s *RouteSpec) { s.Host = "f.default.localhost" },
		"*.localhost is":        func(s *RouteSpec) { s.Host = "*.localhost" },
		"localhost is":          func(s *RouteSpec) { s.Host = "LOCALHOST" },
		"127.0.0.1 is":          func(s *RouteSpec) { s.Host = "127.0.0.1" },
		"no path":               func(s *RouteSpec) { s.Path = "users" },
		`"" is no path`:         func(s *RouteSpec) { s.Path = "" },
		"1024 bytes":            func(s *RouteSpec) { s.Path = "/" + strings.Repeat("x", 1024) },
		"more than 32 segments": func(s *RouteSpec) { s.Path = strings.Repeat("/x", 33) },
		"an empty segment":      func(s *RouteSpec) { s.Path = "/a//b" },
		"the segment ..":        func(s *RouteSpec) { s.Path = "/a/../b" },
		"is there twice":        func(s *RouteSpec) { s.Path = "/{a}/{a}" },
		"must come last":        func(s *RouteSpec) { s.Path = "/{a...}/b" },
		`"x{id}" is neither`:    func(s *RouteSpec) { s.Path = "/x{id}" },
		`"{1}" is neither`:      func(s *RouteSpec) { s.Path = "/{1}" },
		`"a%2Fb" is neither`:    func(s *RouteSpec) { s.Path = "/a%2Fb" },
		`"a?b=c" is neither`:    func(s *RouteSpec) { s.Path = "/a?b=c" },
		"/fn/ is where":         func(s *RouteSpec) { s.Host, s.Path = "", "/fn/{rest...}" },
		"strip: /users/{id}":    func(s *RouteSpec) { s.Strip = true },
		`"get" is no method`:    func(s *RouteSpec) { s.Methods = []string{"get"} },
		"GET is there twice":    func(s *RouteSpec) { s.Methods = []string{"GET", "POST", "GET"} },
		`"F" is no valid`:       func(s *RouteSpec) { s.Function = "F" },
		`"" is no valid`:        func(s *RouteSpec) { s.Function = "" },
		`no valid alias name`:   func(s *RouteSpec) { s.Alias = "Prod" },
		"form of a revision's":  func(s *RouteSpec) { s.Alias = "0123456789abcdef" },
	} {
		s := valid
		change(&s)
		if _, err := s.Complete(); !HasCode(err, CodeInvalidRequest) || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v", part, err)
		}
	}
	for _, change := range []func(*RouteSpec){
		func(s *RouteSpec) { s.Host = "" },
		func(s *RouteSpec) { s.Host = "*.example.com" },
		func(s *RouteSpec) { s.Path = "/" },
		func(s *RouteSpec) { s.Path, s.Strip = "/{rest...}", true },
		func(s *RouteSpec) { s.Path = "/a/" },
		func(s *RouteSpec) { s.Path = "/ä b;c:d/x.y" },
		func(s *RouteSpec) { s.Path = "/fn/x" }, // on a host of its own
		func(s *RouteSpec) { s.Methods = nil },
		func(s *RouteSpec) { s.Alias = "12" },
	} {
		s := valid
		change(&s)
		if _, err := s.Complete(); err != nil {
			t.Errorf("%+v: %v", s, err)
		}
	}
}

func TestRouteConflicts(t *testing.T) {
	for _, c := range []struct {
		a, b            RouteSpec
		conflict, share bool
	}{
		{RouteSpec{Host: "a.b", Path: "/{x}"}, RouteSpec{Host: "a.b", Path: "/{y}"}, true, true},
		{RouteSpec{Host: "a.b", Path: "/{x}"}, RouteSpec{Host: "a.b", Path: "/{x...}"}, false, true},
		{RouteSpec{Host: "a.b", Path: "/x"}, RouteSpec{Host: "a.b", Path: "/x/"}, false, true},
		{RouteSpec{Host: "a.b", Path: "/x"}, RouteSpec{Host: "c.b", Path: "/x"}, false, false},
		{RouteSpec{Host: "*.b", Path: "/x"}, RouteSpec{Host: "a.b", Path: "/x"}, false, true},
		{RouteSpec{Host: "*.b", Path: "/x"}, RouteSpec{Host: "*.a.b", Path: "/x"}, false, true},
		{RouteSpec{Host: "*.b", Path: "/x"}, RouteSpec{Host: "b", Path: "/x"}, false, false},
		{RouteSpec{Host: "*.b", Path: "/x"}, RouteSpec{Host: "ab", Path: "/x"}, false, false},
		{RouteSpec{Host: "a.b", Path: "/x", Methods: []string{"GET"}}, RouteSpec{Host: "a.b", Path: "/x"}, false, true},
		{RouteSpec{Host: "a.b", Path: "/x", Methods: []string{"GET"}}, RouteSpec{Host: "a.b", Path: "/x", Methods: []string{"POST"}}, false, true},
		{RouteSpec{Host: "a.b", Path: "/x", Methods: []string{"GET"}}, RouteSpec{Host: "a.b", Path: "/x", Methods: []string{"GET", "POST"}}, true, true},
	} {
		for _, pair := range [][2]*RouteSpec{{&c.a, &c.b}, {&c.b, &c.a}} {
			if got := pair[0].Conflicts(pair[1]); got != c.conflict {
				t.Errorf("%s conflicts with %s: %v", pair[0], pair[1], got)
			}
			if got := pair[0].SharesHost(pair[1]); got != c.share {
				t.Errorf("%s shares a host with %s: %v", pair[0], pair[1], got)
			}
		}
	}
}
