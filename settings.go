package lambent

import (
	"cmp"
	"regexp"
	"sort"
	"strings"
	"time"
)

// Settings is what a user says about a function beside its code. The zero value of a field means its
// default, which [Settings.Complete] fills in.
type Settings struct {
	Runtime      string            `json:"runtime"`                 // "python3.11", "nodejs20", "go", ...; see RuntimeOf
	Handler      string            `json:"handler,omitempty"`       // "module.function" (python), "module.export" (nodejs; the export default has fetch), path of the executable (go)
	Tier         string            `json:"tier,omitempty"`          // "process"
	Memory       int               `json:"memory,omitempty"`        // MiB, 16 to 10240; default 256
	CPU          int               `json:"cpu,omitempty"`           // thousandths of a core, 10 to 64000; default 1000
	Pids         int               `json:"pids,omitempty"`          // processes and threads, 8 to 32768; default 256
	Concurrency  int               `json:"concurrency,omitempty"`   // requests at a time in one instance, 1 to 1000; default 1 for handlers, 100 for servers and fetch
	MaxInstances int               `json:"max_instances,omitempty"` // 1 to 1000; default 100
	Queue        int               `json:"queue,omitempty"`         // requests that may wait, 1 to 100000; default 1000
	KeepAlive    Duration          `json:"keep_alive,omitempty"`    // how long an idle instance stays; default 10m
	Timeouts     Timeouts          `json:"timeouts,omitzero"`
	MaxBody      int64             `json:"max_body,omitempty"` // request body bytes, -1 for no limit; default 6 MiB for handlers, none for servers and fetch
	Reuse        string            `json:"reuse,omitempty"`    // "always" (default), or "never": a fresh instance for every request
	Auth         string            `json:"auth,omitempty"`     // "public" or "key"; empty: public while the functions listener is loopback
	Env          map[string]string `json:"env,omitempty"`      // 4 KiB in all
}

// Timeouts are the four limits in time of an invocation, each from 1ms to 24h.
type Timeouts struct {
	Queue     Duration `json:"queue,omitempty"`      // waiting for an instance, its start included; default 30s
	FirstByte Duration `json:"first_byte,omitempty"` // from hand-over to the response's head; default 30s
	Idle      Duration `json:"idle,omitempty"`       // between two bytes of a response or stream; default 5m
	Total     Duration `json:"total,omitempty"`      // from acceptance to the last byte; default 30s for handlers, 24h for servers and fetch
}

// The values of Settings.Reuse and Settings.Auth, and the only tier so far.
const (
	ReuseAlways = "always"
	ReuseNever  = "never"
	AuthPublic  = "public"
	AuthKey     = "key"
	TierProcess = "process"
)

const (
	maxEnvBytes    = 4 << 10
	maxTimeout     = Duration(24 * time.Hour)
	handlerMaxBody = 6 << 20
)

// Runtime says how the code of a function is loaded.
type Runtime struct {
	Name string
	// Server means that the code is an HTTP server of its own; otherwise a shim of ours loads a handler.
	Server bool
	// Handler is the default of Settings.Handler.
	Handler string

	handlers    *regexp.Regexp // what Settings.Handler may be
	handlerForm string         // the same for people
	fetch       string         // how handlers end that have fetch, "" when none does
}

// streams tells whether the code of handler takes requests as they are, several at a time, with bodies that stream:
// a server, or a web-standard fetch. Other handlers get one whole request at a time, as an event. It must be plain
// from the settings, before any code is loaded, so the name decides.
func (r Runtime) streams(handler string) bool {
	return r.Server || r.fetch != "" && strings.HasSuffix(handler, r.fetch)
}

var (
	pythonRE = regexp.MustCompile(`^python3\.[0-9]{1,2}$`)
	nodeRE   = regexp.MustCompile(`^nodejs[0-9]{2}$`)
)

// RuntimeOf gives the runtime of that name; ok is false where there is none. Whether a node has the
// interpreter is for its executor to say.
func RuntimeOf(name string) (rt Runtime, ok bool) {
	switch {
	case pythonRE.MatchString(name):
		return Runtime{Name: name, Handler: "main.handler", handlers: pythonHandlerRE, handlerForm: "handler of the form module.function"}, true
	case nodeRE.MatchString(name):
		return Runtime{Name: name, Handler: "index.handler", handlers: nodeHandlerRE, handlerForm: "handler of the form module.export", fetch: ".default"}, true
	case name == "go":
		return Runtime{Name: name, Server: true, Handler: "main", handlers: pathHandlerRE, handlerForm: "relative path of an executable in the bundle"}, true
	}
	return Runtime{}, false
}

var (
	pythonHandlerRE = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+$`)
	nodeHandlerRE   = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_-]*(/[A-Za-z0-9_][A-Za-z0-9_-]*)*\.[A-Za-z_$][A-Za-z0-9_$]*$`)
	pathHandlerRE   = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$`)
	envNameRE       = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// Complete checks s and gives it with every default filled in. The error names the field, what is wrong
// with it and what would be right.
func (s Settings) Complete() (Settings, error) {
	rt, ok := RuntimeOf(s.Runtime)
	if !ok {
		return s, Errorf(CodeInvalidRequest, "runtime: %q is unknown", s.Runtime).WithHint("use python3.11, nodejs20 or go")
	}
	s.Handler = cmp.Or(s.Handler, rt.Handler)
	s.Tier = cmp.Or(s.Tier, TierProcess)
	s.Memory = cmp.Or(s.Memory, 256)
	s.CPU = cmp.Or(s.CPU, 1000)
	s.Pids = cmp.Or(s.Pids, 256)
	s.MaxInstances = cmp.Or(s.MaxInstances, 100)
	s.Queue = cmp.Or(s.Queue, 1000)
	s.KeepAlive = cmp.Or(s.KeepAlive, Duration(10*time.Minute))
	s.Reuse = cmp.Or(s.Reuse, ReuseAlways)
	s.Timeouts.Queue = cmp.Or(s.Timeouts.Queue, Duration(30*time.Second))
	s.Timeouts.FirstByte = cmp.Or(s.Timeouts.FirstByte, Duration(30*time.Second))
	s.Timeouts.Idle = cmp.Or(s.Timeouts.Idle, Duration(5*time.Minute))
	if rt.streams(s.Handler) {
		s.Concurrency = cmp.Or(s.Concurrency, 100)
		s.MaxBody = cmp.Or(s.MaxBody, -1)
		s.Timeouts.Total = cmp.Or(s.Timeouts.Total, maxTimeout)
	} else {
		s.Concurrency = cmp.Or(s.Concurrency, 1)
		s.MaxBody = cmp.Or(s.MaxBody, handlerMaxBody)
		s.Timeouts.Total = cmp.Or(s.Timeouts.Total, Duration(30*time.Second))
	}
	return s, s.check(rt)
}

func (s Settings) check(rt Runtime) error {
	invalid := func(field, format string, args ...any) error {
		return Errorf(CodeInvalidRequest, field+": "+format, args...)
	}
	for _, f := range []struct {
		field        string
		v, low, high int64
	}{
		{"memory", int64(s.Memory), 16, 10240},
		{"cpu", int64(s.CPU), 10, 64000},
		{"pids", int64(s.Pids), 8, 32768},
		{"concurrency", int64(s.Concurrency), 1, 1000},
		{"max_instances", int64(s.MaxInstances), 1, 1000},
		{"queue", int64(s.Queue), 1, 100000},
	} {
		if f.v < f.low || f.v > f.high {
			return invalid(f.field, "%d is not between %d and %d", f.v, f.low, f.high)
		}
	}
	for _, f := range []struct {
		field string
		v     Duration
	}{
		{"timeouts.queue", s.Timeouts.Queue}, {"timeouts.first_byte", s.Timeouts.FirstByte},
		{"timeouts.idle", s.Timeouts.Idle}, {"timeouts.total", s.Timeouts.Total},
		{"keep_alive", s.KeepAlive},
	} {
		if f.v < Duration(time.Millisecond) || f.v > maxTimeout {
			return invalid(f.field, "%s is not between 1ms and 24h", f.v)
		}
	}
	if s.MaxBody < -1 {
		return invalid("max_body", "%d is not a number of bytes, nor -1 for no limit", s.MaxBody)
	}
	if s.Tier != TierProcess {
		return invalid("tier", "%q is unknown, the tier here is %q", s.Tier, TierProcess)
	}
	if s.Reuse != ReuseAlways && s.Reuse != ReuseNever {
		return invalid("reuse", "%q is neither %q nor %q", s.Reuse, ReuseAlways, ReuseNever)
	}
	if s.Auth != "" && s.Auth != AuthPublic && s.Auth != AuthKey {
		return invalid("auth", "%q is neither %q nor %q", s.Auth, AuthPublic, AuthKey)
	}
	if !rt.handlers.MatchString(s.Handler) {
		return invalid("handler", "%q is no %s", s.Handler, rt.handlerForm)
	}
	if s.Concurrency != 1 && !rt.streams(s.Handler) {
		e := Errorf(CodeInvalidRequest, "concurrency: a %s handler serves one request at a time, not %d", s.Runtime, s.Concurrency)
		if rt.fetch != "" {
			e.Hint = "a fetch handler may serve several; its name ends in " + rt.fetch
		}
		return e
	}
	return s.checkEnv()
}

func (s Settings) checkEnv() error {
	names := make([]string, 0, len(s.Env))
	size := 0
	for name, value := range s.Env {
		names = append(names, name)
		size += len(name) + len(value) + 2
	}
	sort.Strings(names) // the same input always gets the same complaint
	for _, name := range names {
		switch {
		case !envNameRE.MatchString(name):
			return Errorf(CodeInvalidRequest, "env: %q is no name of an environment variable", name)
		case strings.HasPrefix(name, "LAMBENT_"), name == "LISTEN_FDS", name == "LISTEN_PID":
			return Errorf(CodeInvalidRequest, "env: %s is set by the platform", name).WithHint("choose another name")
		case strings.IndexByte(s.Env[name], 0) >= 0:
			return Errorf(CodeInvalidRequest, "env: the value of %s holds a NUL byte", name)
		}
	}
	if size > maxEnvBytes {
		return Errorf(CodeInvalidRequest, "env: %d bytes are over the limit of %d", size, maxEnvBytes)
	}
	return nil
}
