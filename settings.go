package lambent

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

// Settings is what a user says about a function beside its code. The zero value of a field means its
// default, which [Settings.Complete] fills in.
type Settings struct {
	Runtime      string            `json:"runtime"`                 // "python3.11", "nodejs20", "go", "http", "exec", "wasm", "static", "noop"; see RuntimeOf
	Handler      string            `json:"handler,omitempty"`       // "module.function" or "module:app" (python), "module.export" (nodejs; the export default has fetch), path of the executable (go), module (wasm) or folder (static)
	Command      []string          `json:"command,omitempty"`       // what runtimes http and exec run: a program, of the bundle or of the node's PATH, and its arguments
	Protocol     string            `json:"protocol,omitempty"`      // runtime http: "http1" (default), or "h2c" for servers that speak HTTP/2 without TLS only
	Tier         string            `json:"tier,omitempty"`          // "process"; "wasm" and "builtin" for the runtimes wasm and static
	Floor        string            `json:"floor,omitempty"`         // the weakest isolation that will do: "full", "userns" or "none"; default: the node's
	Memory       int               `json:"memory,omitempty"`        // MiB, 16 to 10240; default 256; of one request for runtime wasm, to 4096, default 128
	CPU          int               `json:"cpu,omitempty"`           // thousandths of a core, 10 to 64000; default 1000
	Pids         int               `json:"pids,omitempty"`          // processes and threads, 8 to 32768; default 256
	Concurrency  int               `json:"concurrency,omitempty"`   // requests at a time in one instance, 1 to 1000; default 1 for handlers, 10 for exec, 100 for servers, fetch and apps
	MaxInstances int               `json:"max_instances,omitempty"` // 1 to 1000; default 100
	Queue        int               `json:"queue,omitempty"`         // requests that may wait, 1 to 100000; default 1000
	KeepAlive    Duration          `json:"keep_alive,omitempty"`    // how long an idle instance stays; default 10m
	Timeouts     Timeouts          `json:"timeouts,omitzero"`
	MaxBody      int64             `json:"max_body,omitempty"`   // request body bytes, -1 for no limit; default 6 MiB for handlers of events, none for all others
	MaxOutput    int64             `json:"max_output,omitempty"` // runtime wasm: response body bytes, -1 (default) for no limit
	Warmup       string            `json:"warmup,omitempty"`     // runtime wasm: a request target such as "/warm", a GET of which is served before the state is taken that every request begins with
	Reuse        string            `json:"reuse,omitempty"`      // "always" (default), or "never": a fresh instance for every request
	Idempotent   string            `json:"idempotent,omitempty"` // requests that may be sent again when an instance died with them: "never" (default), "key" (those with an Idempotency-Key), or "always"
	Auth         string            `json:"auth,omitempty"`       // "public" or "key"; empty: public while the functions listener is loopback
	Env          map[string]string `json:"env,omitempty"`        // 4 KiB in all
	Secrets      map[string]string `json:"secrets,omitempty"`    // names of secrets, by the name of the environment variable, or the file below /run/secrets, that gives the value to the code
	Egress       []string          `json:"egress,omitempty"`     // what the code may connect to, none by default; see EgressRule
}

// Timeouts are the limits in time of an invocation, each from 1ms to 24h.
type Timeouts struct {
	Queue     Duration `json:"queue,omitempty"`      // waiting for an instance, its start included; default 30s
	FirstByte Duration `json:"first_byte,omitempty"` // from hand-over to the response's head; default 30s
	Idle      Duration `json:"idle,omitempty"`       // between two bytes of a response or stream; default 5m
	Total     Duration `json:"total,omitempty"`      // from acceptance to the last byte; default 30s for handlers and wasm, 24h for servers and fetch
	CPU       Duration `json:"cpu,omitempty"`        // runtime wasm: processor time; default: what Total leaves
	// Drain is how long exchanges without an end of their own, WebSockets and event streams, go on when their revision
	// has been replaced or their node is stopped or upgraded; default 1m. Then they are ended as their protocol has it.
	Drain Duration `json:"drain,omitempty"`
}

// The values of Settings.Reuse, Idempotent, Auth, Protocol and Tier.
const (
	ReuseAlways = "always"
	ReuseNever  = "never"
	// An instance may die with a request. IdempotentNever: it fails. The others send it to another instance.
	IdempotentNever  = "never"
	IdempotentKey    = "key"
	IdempotentAlways = "always"
	AuthPublic       = "public"
	AuthKey          = "key"
	ProtocolHTTP1    = "http1"
	ProtocolH2C      = "h2c"
	TierProcess      = "process"
	TierWasm         = "wasm"    // a WebAssembly instance of its own for every request
	TierBuiltin      = "builtin" // the platform's own code, in its own process: nothing of the user's runs
)

const (
	maxEnvBytes    = 4 << 10
	maxEgress      = 64
	maxTimeout     = Duration(24 * time.Hour)
	handlerMaxBody = 6 << 20
	handlerTotal   = Duration(30 * time.Second)
	maxMemory      = 10240 // MiB
	maxWasmMemory  = 4096  // MiB, what a module can address
)

// DefaultDrain is that of Timeouts.Drain; revisions that are older than the setting have it too.
const DefaultDrain = Duration(time.Minute)

var targetRE = regexp.MustCompile(`^/[!-"$-~]*$`)

var envNameRE = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// Complete checks s and gives it with every default filled in. The error names the field, what is wrong
// with it and what would be right.
func (s Settings) Complete() (Settings, error) {
	rt, ok := RuntimeOf(s.Runtime)
	if !ok {
		return s, Errorf(CodeInvalidRequest, "runtime: %q is unknown", s.Runtime).WithHint("use python3.11, nodejs20, go, http, exec, wasm or static")
	}
	s.Handler = cmp.Or(s.Handler, rt.Handler)
	s.Tier = cmp.Or(s.Tier, rt.Tier)
	s.Memory = cmp.Or(s.Memory, rt.memory)
	s.CPU = cmp.Or(s.CPU, 1000)
	s.Pids = cmp.Or(s.Pids, 256)
	s.MaxInstances = cmp.Or(s.MaxInstances, 100)
	s.Queue = cmp.Or(s.Queue, 1000)
	s.KeepAlive = cmp.Or(s.KeepAlive, Duration(10*time.Minute))
	s.Reuse = cmp.Or(s.Reuse, ReuseAlways)
	s.Idempotent = cmp.Or(s.Idempotent, IdempotentNever)
	s.Timeouts.Drain = cmp.Or(s.Timeouts.Drain, DefaultDrain)
	s.Timeouts.Queue = cmp.Or(s.Timeouts.Queue, Duration(30*time.Second))
	s.Timeouts.FirstByte = cmp.Or(s.Timeouts.FirstByte, Duration(30*time.Second))
	s.Timeouts.Idle = cmp.Or(s.Timeouts.Idle, Duration(5*time.Minute))
	if s.Runtime == "http" {
		s.Protocol = cmp.Or(s.Protocol, ProtocolHTTP1)
	}
	if s.Tier == TierWasm {
		s.MaxOutput = cmp.Or(s.MaxOutput, -1)
	}
	if rt.Streams(s.Handler) {
		s.Concurrency = cmp.Or(s.Concurrency, rt.concurrency)
		s.MaxBody = cmp.Or(s.MaxBody, -1)
		s.Timeouts.Total = cmp.Or(s.Timeouts.Total, rt.total)
	} else {
		s.Concurrency = cmp.Or(s.Concurrency, 1)
		s.MaxBody = cmp.Or(s.MaxBody, handlerMaxBody)
		s.Timeouts.Total = cmp.Or(s.Timeouts.Total, handlerTotal)
	}
	return s, s.check(rt)
}

func (s Settings) check(rt Runtime) error {
	invalid := func(field, format string, args ...any) error {
		return Errorf(CodeInvalidRequest, field+": "+format, args...)
	}
	memory := int64(maxMemory)
	if rt.Tier == TierWasm {
		memory = maxWasmMemory
	}
	for _, f := range []struct {
		field        string
		v, low, high int64
	}{
		{"memory", int64(s.Memory), 16, memory},
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
		{"timeouts.drain", s.Timeouts.Drain}, {"keep_alive", s.KeepAlive},
	} {
		if f.v < Duration(time.Millisecond) || f.v > maxTimeout {
			return invalid(f.field, "%s is not between 1ms and 24h", f.v)
		}
	}
	if s.MaxBody < -1 {
		return invalid("max_body", "%d is not a number of bytes, nor -1 for no limit", s.MaxBody)
	}
	if s.Tier != rt.Tier {
		return invalid("tier", "%q cannot run %s, its tier is %q", s.Tier, s.Runtime, rt.Tier)
	}
	if s.Floor != "" && !slices.Contains(isolationLevels, s.Floor) {
		return invalid("floor", "%q is none of %s", s.Floor, strings.Join(isolationLevels, ", "))
	}
	if s.Reuse != ReuseAlways && s.Reuse != ReuseNever {
		return invalid("reuse", "%q is neither %q nor %q", s.Reuse, ReuseAlways, ReuseNever)
	}
	if s.Idempotent != IdempotentNever && s.Idempotent != IdempotentKey && s.Idempotent != IdempotentAlways {
		return invalid("idempotent", "%q is none of %q, %q and %q", s.Idempotent, IdempotentNever, IdempotentKey, IdempotentAlways)
	}
	if s.Auth != "" && s.Auth != AuthPublic && s.Auth != AuthKey {
		return invalid("auth", "%q is neither %q nor %q", s.Auth, AuthPublic, AuthKey)
	}
	if err := s.checkCode(rt); err != nil {
		return err
	}
	if err := s.checkWasm(); err != nil {
		return err
	}
	if s.Tier == TierBuiltin && len(s.Env)+len(s.Secrets)+len(s.Egress) > 0 {
		return invalid("runtime", "%s runs no code that env, secrets or egress could be for", s.Runtime)
	}
	if err := s.checkEnv(); err != nil {
		return err
	}
	if err := s.checkSecrets(); err != nil {
		return err
	}
	if len(s.Egress) > maxEgress {
		return invalid("egress", "%d rules are over the limit of %d", len(s.Egress), maxEgress)
	}
	for i, rule := range s.Egress {
		if _, err := ParseEgress(rule); err != nil {
			return invalid(fmt.Sprintf("egress[%d]", i), "%w", err)
		}
	}
	return nil
}

// checkCode checks what is run, and how many requests at a time it may get.
func (s Settings) checkCode(rt Runtime) error {
	invalid := func(field, format string, args ...any) *Error {
		return Errorf(CodeInvalidRequest, field+": "+format, args...)
	}
	switch {
	case s.Protocol != "" && s.Runtime != "http":
		return invalid("protocol", "runtime %s has no choice of it", s.Runtime)
	case s.Protocol != "" && s.Protocol != ProtocolHTTP1 && s.Protocol != ProtocolH2C:
		return invalid("protocol", "%q is neither %q nor %q", s.Protocol, ProtocolHTTP1, ProtocolH2C)
	case !rt.Command && len(s.Command) > 0:
		return invalid("command", "runtime %s takes none", s.Runtime).WithHint("use handler, or runtime http or exec")
	case rt.Command && s.Handler != "":
		return invalid("handler", "runtime %s takes none", s.Runtime).WithHint("use command")
	case rt.handlers == nil && s.Handler != "":
		return invalid("handler", "runtime %s takes none", s.Runtime)
	case rt.Command && (len(s.Command) == 0 || s.Command[0] == ""):
		return invalid("command", "runtime %s needs a program to run", s.Runtime).WithHint(`such as command: ["node", "server.js"]`)
	case rt.handlers != nil && !rt.handlers.MatchString(s.Handler):
		return invalid("handler", "%q is no %s", s.Handler, rt.handlerForm)
	}
	for i, arg := range s.Command {
		if strings.IndexByte(arg, 0) >= 0 {
			return invalid(fmt.Sprintf("command[%d]", i), "it holds a NUL byte")
		}
	}
	if s.Concurrency != 1 && !rt.parallel && !rt.Streams(s.Handler) {
		return invalid("concurrency", "a %s handler of events serves one request at a time, not %d", s.Runtime, s.Concurrency).
			WithHint("one that takes requests as they are may serve several; its name %s", rt.appForm)
	}
	return nil
}

// checkWasm checks what only runtime wasm has, and what it has not.
func (s Settings) checkWasm() error {
	invalid := func(field, format string, args ...any) *Error {
		return Errorf(CodeInvalidRequest, field+": "+format, args...)
	}
	if s.Tier != TierWasm {
		for _, f := range []struct {
			field string
			set   bool
		}{{"max_output", s.MaxOutput != 0}, {"warmup", s.Warmup != ""}, {"timeouts.cpu", s.Timeouts.CPU != 0}} {
			if f.set {
				return invalid(f.field, "runtime %s has no such setting", s.Runtime).WithHint("only runtime wasm has it")
			}
		}
		return nil
	}
	if s.MaxOutput < -1 {
		return invalid("max_output", "%d is not a number of bytes, nor -1 for no limit", s.MaxOutput)
	}
	if cpu := s.Timeouts.CPU; cpu != 0 && (cpu < Duration(time.Millisecond) || cpu > maxTimeout) {
		return invalid("timeouts.cpu", "%s is not between 1ms and 24h", cpu)
	}
	if s.Warmup != "" && !targetRE.MatchString(s.Warmup) {
		return invalid("warmup", "%q is no path with or without a query", s.Warmup).WithHint("such as /warm?items=10, of visible ASCII")
	}
	if len(s.Egress) > 0 {
		return invalid("egress", "a WebAssembly function has no sockets to connect with").WithHint("use another runtime for it")
	}
	for _, target := range slices.Sorted(maps.Keys(s.Secrets)) {
		if strings.HasPrefix(target, SecretsDir) {
			return invalid("secrets", "%q: a WebAssembly function has no files", target).WithHint("give the secret as an environment variable")
		}
	}
	return nil
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
		case s.isPlatforms(name):
			return Errorf(CodeInvalidRequest, "env: %s is set by the platform", name).WithHint("choose another name")
		case strings.IndexByte(s.Env[name], 0) >= 0:
			return Errorf(CodeInvalidRequest, "env: the value of %s holds a NUL byte", name)
		}
	}
	if port := s.Port(); s.Runtime == "http" && port < 1024 {
		return Errorf(CodeInvalidRequest, "env: PORT is %q, not a number from 1024 to 65535", s.Env["PORT"]).
			WithHint("a function has no privilege to listen on a port below; leave it out for 8080")
	}
	if size > maxEnvBytes {
		return Errorf(CodeInvalidRequest, "env: %d bytes are over the limit of %d", size, maxEnvBytes)
	}
	return nil
}

// Port is the port that a server of runtime http is told to listen on, by $PORT; 0 for other runtimes.
func (s Settings) Port() uint16 {
	if s.Runtime != "http" {
		return 0
	}
	port, err := strconv.ParseUint(cmp.Or(s.Env["PORT"], "8080"), 10, 16)
	if err != nil {
		return 0 // Complete refuses it
	}
	return uint16(port)
}

// isPlatforms tells whether the platform sets that environment variable itself. The fields of a request come to
// the runtimes exec and wasm as HTTP_*, but for one: see https://httpoxy.org.
func (s Settings) isPlatforms(name string) bool {
	return strings.HasPrefix(name, "LAMBENT_") || name == "LISTEN_FDS" || name == "LISTEN_PID" ||
		(s.Runtime == "exec" || s.Tier == TierWasm) && strings.HasPrefix(name, "HTTP_") && name != "HTTP_PROXY"
}

// SecretsDir is where code finds the secrets that it is given as files.
const SecretsDir = "/run/secrets"

const maxSecrets = 100

var secretFileRE = regexp.MustCompile(`^` + SecretsDir + `/[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$`)

func (s Settings) checkSecrets() error {
	if len(s.Secrets) > maxSecrets {
		return Errorf(CodeInvalidRequest, "secrets: %d are over the limit of %d", len(s.Secrets), maxSecrets)
	}
	for _, target := range slices.Sorted(maps.Keys(s.Secrets)) {
		switch _, taken := s.Env[target]; {
		case taken:
			return Errorf(CodeInvalidRequest, "secrets: %s is in env, too", target)
		case s.isPlatforms(target):
			return Errorf(CodeInvalidRequest, "secrets: %s is set by the platform", target).WithHint("choose another name")
		case target == "PORT" && s.Runtime == "http":
			return Errorf(CodeInvalidRequest, "secrets: PORT tells the server where to listen, and is no secret").WithHint("set it in env")
		case !envNameRE.MatchString(target) && !secretFileRE.MatchString(target):
			return Errorf(CodeInvalidRequest, "secrets: %q is neither the name of an environment variable nor a file in %s", target, SecretsDir)
		}
		if err := CheckName("secret", s.Secrets[target]); err != nil {
			return Errorf(CodeInvalidRequest, "secrets.%s: %w", target, err)
		}
	}
	return nil
}
