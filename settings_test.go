package lambent_test

import (
	"strings"
	"testing"
	"time"

	"lambent"
)

func TestComplete(t *testing.T) {
	for _, c := range []struct {
		settings lambent.Settings
		wrong    string // part of the error; "" for none
	}{
		{lambent.Settings{Runtime: "python3.11", Concurrency: 8}, ""},
		{lambent.Settings{Runtime: "python3.11", Handler: "shop.web:app"}, ""},
		{lambent.Settings{Runtime: "nodejs20", Concurrency: 8}, "ends in .default"},
		{lambent.Settings{Runtime: "nodejs20", Handler: "index.default", Concurrency: 8}, ""},
		{lambent.Settings{Runtime: "http", Command: []string{"node", "server.js"}}, ""},
		{lambent.Settings{Runtime: "http", Command: []string{"server"}, Protocol: "h2c"}, ""},
		{lambent.Settings{Runtime: "http", Command: []string{"server"}, Protocol: "h3"}, "protocol"},
		{lambent.Settings{Runtime: "http", Command: []string{"server"}, Env: map[string]string{"PORT": "1024"}}, ""},
		{lambent.Settings{Runtime: "http", Command: []string{"server"}, Env: map[string]string{"PORT": "1023"}}, "PORT"},
		{lambent.Settings{Runtime: "http", Command: []string{"server"}, Env: map[string]string{"PORT": "65536"}}, "PORT"},
		{lambent.Settings{Runtime: "http", Command: []string{"server"}, Env: map[string]string{"PORT": "web"}}, "PORT"},
		{lambent.Settings{Runtime: "http", Command: []string{"server"}, Secrets: map[string]string{"PORT": "p"}}, "PORT"},
		{lambent.Settings{Runtime: "go", Env: map[string]string{"PORT": "web"}}, ""},
		{lambent.Settings{Runtime: "http"}, "command: runtime http needs a program"},
		{lambent.Settings{Runtime: "exec", Command: []string{"sh", "a\x00b"}}, "command[1]"},
		{lambent.Settings{Runtime: "exec", Command: []string{"sh"}, Handler: "x"}, "handler: runtime exec takes none"},
		{lambent.Settings{Runtime: "go", Command: []string{"x"}}, "command: runtime go takes none"},
		{lambent.Settings{Runtime: "go", Protocol: "h2c"}, "protocol: runtime go"},
		{lambent.Settings{Runtime: "static"}, ""},
		{lambent.Settings{Runtime: "static", Handler: "../x"}, "folder"},
		{lambent.Settings{Runtime: "static", Tier: "process"}, "tier"},
		{lambent.Settings{Runtime: "static", Env: map[string]string{"A": "x"}}, "runs no code"},
		{lambent.Settings{Runtime: "static", Egress: []string{"a:1"}}, "runs no code"},
		{lambent.Settings{Runtime: "noop"}, ""},
		{lambent.Settings{Runtime: "noop", Handler: "x"}, "handler: runtime noop takes none"},
		{lambent.Settings{Runtime: "noop", Command: []string{"x"}}, "command: runtime noop takes none"},
		{lambent.Settings{Runtime: "exec", Command: []string{"sh"}, Env: map[string]string{"HTTP_HOST": "x"}}, "set by the platform"},
		{lambent.Settings{Runtime: "exec", Command: []string{"sh"}, Secrets: map[string]string{"HTTP_TOKEN": "x"}}, "set by the platform"},
		{lambent.Settings{Runtime: "wasm"}, ""},
		{lambent.Settings{Runtime: "wasm", Handler: "a/b.wasm", Warmup: "/warm?x=1", MaxOutput: 10, Timeouts: lambent.Timeouts{CPU: lambent.Duration(time.Second)}}, ""},
		{lambent.Settings{Runtime: "wasm", Handler: "main"}, "relative path of a .wasm file"},
		{lambent.Settings{Runtime: "wasm", Memory: 4097}, "memory: 4097 is not between 16 and 4096"},
		{lambent.Settings{Runtime: "wasm", Warmup: "warm"}, "warmup"},
		{lambent.Settings{Runtime: "wasm", Warmup: "/a b"}, "warmup"},
		{lambent.Settings{Runtime: "wasm", MaxOutput: -2}, "max_output"},
		{lambent.Settings{Runtime: "wasm", Timeouts: lambent.Timeouts{CPU: 1}}, "timeouts.cpu"},
		{lambent.Settings{Runtime: "wasm", Egress: []string{"example.com:443"}}, "no sockets"},
		{lambent.Settings{Runtime: "wasm", Secrets: map[string]string{"/run/secrets/a": "a"}}, "no files"},
		{lambent.Settings{Runtime: "go", Warmup: "/"}, "warmup: runtime go has no such setting"},
		{lambent.Settings{Runtime: "go", MaxOutput: 1}, "max_output: runtime go has no such setting"},
		{lambent.Settings{Runtime: "exec", Command: []string{"sh"}, Env: map[string]string{"HTTP_PROXY": "x"}}, ""},
		{lambent.Settings{Runtime: "go", Floor: "full"}, ""},
		{lambent.Settings{Runtime: "go", Floor: "strong"}, "full, userns, none"},
		{lambent.Settings{Runtime: "go", Egress: []string{"api.example.com:443", "*.example.com:*", "*:443", "[2001:db8::1]:80"}}, ""},
		{lambent.Settings{Runtime: "go", Egress: []string{"a:1", "example.com"}}, "egress[1]"},
		{lambent.Settings{Runtime: "go", Egress: []string{"exa mple.com:80"}}, "no valid host"},
		{lambent.Settings{Runtime: "go", Egress: []string{"example.com:0"}}, "no valid port"},
		{lambent.Settings{Runtime: "go", Secrets: map[string]string{"TOKEN": "api-token", "/run/secrets/tls.key": "tls"}}, ""},
		{lambent.Settings{Runtime: "go", Secrets: map[string]string{"/etc/passwd": "x"}}, "/run/secrets"},
		{lambent.Settings{Runtime: "go", Secrets: map[string]string{"/run/secrets/../x": "x"}}, "/run/secrets"},
		{lambent.Settings{Runtime: "go", Secrets: map[string]string{"LAMBENT_X": "x"}}, "set by the platform"},
		{lambent.Settings{Runtime: "go", Secrets: map[string]string{"A": "x"}, Env: map[string]string{"A": "y"}}, "in env, too"},
	} {
		_, err := c.settings.Complete()
		switch {
		case c.wrong == "" && err != nil:
			t.Errorf("%+v: %v", c.settings, err)
		case c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)):
			t.Errorf("%+v: %v, want %q", c.settings, err, c.wrong)
		}
	}
}

func TestEgressRuleAllows(t *testing.T) {
	for _, c := range []struct {
		rule, host string
		port       int
		want       bool
	}{
		{"api.example.com:443", "api.example.com", 443, true},
		{"API.Example.com.:443", "api.example.com", 443, true},
		{"api.example.com:443", "api.example.com", 80, false},
		{"api.example.com:443", "xapi.example.com", 443, false},
		{"*.example.com:443", "a.b.example.com", 443, true},
		{"*.example.com:443", "example.com", 443, false},
		{"*.example.com:443", "badexample.com", 443, false},
		{"*:443", "anything.test", 443, true},
		{"*:443", "anything.test", 22, false},
		{"203.0.113.7:*", "203.0.113.7", 22, true},
		{"[::ffff:203.0.113.7]:22", "203.0.113.7", 22, true},
	} {
		rule, err := lambent.ParseEgress(c.rule)
		if err != nil {
			t.Fatal(err)
		}
		if got := rule.Allows(c.host, c.port); got != c.want {
			t.Errorf("%s allows %s:%d: %v", c.rule, c.host, c.port, got)
		}
	}
}

func TestIsolationMeets(t *testing.T) {
	userns := lambent.Isolation{Level: lambent.IsolationUserns}
	if userns.Meets(lambent.IsolationFull) || !userns.Meets(lambent.IsolationUserns) || !userns.Meets(lambent.IsolationNone) {
		t.Error("userns meets itself and none only")
	}
}
