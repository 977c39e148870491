package lambent

import "regexp"

// Runtime says how the code of a function is loaded.
type Runtime struct {
	Name string
	// Server means that the code answers HTTP by itself; otherwise a shim of ours loads a handler, or runs a command.
	Server bool
	// Command means that Settings.Command says what to run, and there is no handler.
	Command bool
	// Tier is where it runs.
	Tier string
	// Handler is the default of Settings.Handler.
	Handler string

	handlers    *regexp.Regexp // what Settings.Handler may be; nil when there is none
	handlerForm string         // the same for people
	apps        *regexp.Regexp // those of them that take requests as they are; nil when none does
	appForm     string         // the same for people
	parallel    bool           // its handlers of events may serve several at a time
	concurrency int            // default of Settings.Concurrency where requests are taken as they are
	memory      int            // default of Settings.Memory
	total       Duration       // default of Timeouts.Total where requests are taken as they are
}

// Streams tells whether the code of handler takes requests as they are, several at a time, with bodies that stream:
// a server, a command, a web-standard fetch, an ASGI or WSGI application. Other handlers get one whole request at a time,
// as an event. It must be plain from the settings, before any code is loaded, so the name decides.
func (r Runtime) Streams(handler string) bool {
	return r.Server || r.Command || r.apps != nil && r.apps.MatchString(handler)
}

var (
	pythonRE = regexp.MustCompile(`^python3\.[0-9]{1,2}$`)
	nodeRE   = regexp.MustCompile(`^nodejs[0-9]{2}$`)

	pythonHandlerRE = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*[.:][A-Za-z_][A-Za-z0-9_]*$`)
	pythonAppRE     = regexp.MustCompile(`:`)
	nodeHandlerRE   = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_-]*(/[A-Za-z0-9_][A-Za-z0-9_-]*)*\.[A-Za-z_$][A-Za-z0-9_$]*$`)
	nodeAppRE       = regexp.MustCompile(`\.default$`)
	pathHandlerRE   = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$`)
	moduleHandlerRE = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*\.wasm$`)
	folderHandlerRE = regexp.MustCompile(`^(\.|[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*)$`)
)

// RuntimeOf gives the runtime of that name; ok is false where there is none. Whether a node has the
// interpreter is for its executor to say.
func RuntimeOf(name string) (rt Runtime, ok bool) {
	rt = Runtime{Name: name, Tier: TierProcess, concurrency: 100, memory: 256, total: maxTimeout}
	switch {
	case pythonRE.MatchString(name):
		rt.Handler, rt.handlers, rt.handlerForm = "main.handler", pythonHandlerRE, "handler of the form module.function, or module:app"
		rt.apps, rt.appForm, rt.parallel = pythonAppRE, "is of the form module:app", true
	case nodeRE.MatchString(name):
		rt.Handler, rt.handlers, rt.handlerForm = "index.handler", nodeHandlerRE, "handler of the form module.export"
		rt.apps, rt.appForm = nodeAppRE, "ends in .default"
	case name == "go":
		rt.Server = true
		rt.Handler, rt.handlers, rt.handlerForm = "main", pathHandlerRE, "relative path of an executable in the bundle"
	case name == "http":
		rt.Server, rt.Command = true, true
	case name == "exec":
		rt.Command, rt.concurrency = true, 10
	case name == "wasm":
		rt.Server, rt.Tier, rt.memory, rt.total = true, TierWasm, 128, handlerTotal
		rt.Handler, rt.handlers, rt.handlerForm = "main.wasm", moduleHandlerRE, "relative path of a .wasm file in the bundle"
	case name == "static":
		rt.Server, rt.Tier = true, TierBuiltin
		rt.Handler, rt.handlers, rt.handlerForm = ".", folderHandlerRE, "relative path of a folder in the bundle, or ."
	case name == "noop":
		rt.Server, rt.Tier = true, TierBuiltin
	default:
		return Runtime{}, false
	}
	return rt, true
}
