// Package golang builds Go functions: the program is compiled where it runs, and what is no Go stays beside it. Its
// layer holds the modules and compiled packages that a build needs again; it is no part of the code.
//
// No code of the source runs in a build: there is no cgo, no generator and no tool of the source's choice.
package golang

import (
	"cmp"
	"context"
	"go/build"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"lambent"
	"lambent/builder"
)

// toolchains is where Go may be, below /usr because sandboxes see nothing else.
var toolchains = []string{"/usr/local/go/bin/go", "/usr/lib/go/bin/go", "/usr/bin/go"}

// Builder is the builder of runtime go.
type Builder struct{}

var _ builder.Builder = Builder{}

// Compiled is a folder that scripts/setup compiles the standard library into, by the version of Go. Where it is
// missing, every layer has a copy of what it needs.
var Compiled = "/usr/local/lib/lambent/go"

const (
	// common takes the program go as its first argument, the compiled standard library or "" as its second, then what to
	// compile for. A cache of compiled packages is made of links: new ones are written beside them.
	common = `
go=$1
compiled=$2
export GOOS=$3 GOARCH=$4
shift 4
export CGO_ENABLED=0 GOTOOLCHAIN=local GOTELEMETRY=off GOENV=off GOMODCACHE=/work/modules GOFLAGS=-modcacherw GOCACHE=/work/packages
build() {
	"$go" build -trimpath -buildvcs=false '-ldflags=-s -w -buildid=' "$@"
}
cp -r /var/task /work/src
chmod -R u+w /work/src
mkdir /work/packages
[ -z "$compiled" ] || cp -rs "$compiled/." /work/packages/
cd /work/src
`
	// prepare gets the modules and compiles what most functions import. What else this one imports, the further
	// arguments, is compiled too as far as that goes: the next step tells what is wrong with it. What the module is
	// called is no part of the key.
	prepare = common + `
if [ -e go.mod ]; then
	"$go" mod edit -module=lambent
	"$go" mod download
fi
build net/http encoding/json html/template log/slog
[ $# = 0 ] || build -o /dev/null -- "$@" >/work/said 2>&1 || :
cd /work/packages
rm -rf fuzz README trim.txt testexpire.txt
find . -type l -delete
mv /work/packages /work/out/packages
if [ -e /work/modules/cache/download ]; then
	find /work/modules/cache/download -name '*.lock' -delete
	mv /work/modules/cache/download /work/out/modules
fi
`
	// compile takes what the program is called, its mode, a file that is added where the source has none of that name, or "", its
	// text, and what to build.
	compile = common + `
if [ -e ` + builder.LayerDir + `/packages ]; then
	cp -rs ` + builder.LayerDir + `/packages/. /work/packages/
fi
if [ -e ` + builder.LayerDir + `/modules ]; then
	export GOPROXY="file://` + builder.LayerDir + `/modules,${GOPROXY:-$("$go" env GOPROXY)}"
fi
program=$1
mode=$2
if [ -n "$3" ] && ! [ -e "$3" ]; then
	mkdir -p "$(dirname "$3")"
	printf %s "$4" >"$3"
fi
shift 4
build -buildmode="$mode" -o "/work/out/$program" "$@"
`
)

// Target is what a program is compiled for.
type Target struct {
	OS, Arch string // as GOOS and GOARCH
	Mode     string // of go build -buildmode
	// File is added to a source that has none of that path; "" for none. Text is what is in it.
	File, Text string
}

var (
	host = Target{OS: "linux", Arch: runtime.GOARCH, Mode: "default"}
	// WASICommand is for WebAssembly modules that are programs.
	WASICommand = Target{OS: "wasip1", Arch: "wasm", Mode: "default"}
	// WASIReactor is for those that are libraries, which their host calls.
	WASIReactor = Target{OS: "wasip1", Arch: "wasm", Mode: "c-shared"}
)

// suffix is what the name of the compiled standard library ends in.
func (t Target) suffix() string {
	if t.OS == host.OS {
		return ""
	}
	return "-" + t.OS
}

// Plan implements builder.Builder. A directory without Go's source holds a program that is built already.
func (Builder) Plan(src builder.Source) (*builder.Plan, error) { return Plan(src, host) }

// Plan is how to compile a source for t.
func Plan(src builder.Source, t Target) (*builder.Plan, error) {
	module, _, err := src.Read("go.mod")
	if err != nil {
		return nil, err
	}
	sums, _, err := src.Read("go.sum")
	if err != nil {
		return nil, err
	}
	what := []string{"."}
	if module == "" {
		if what, err = files(src.FS); len(what) == 0 || err != nil {
			return nil, err
		}
	}
	program, version := find()
	if program == "" {
		return nil, lambent.Errorf(lambent.CodeTierUnavailable, "this node cannot build Go: it has no Go in /usr").
			WithHint("install Go in /usr/local/go; or deploy a directory with the built program: CGO_ENABLED=0 GOOS=%s GOARCH=%s go build -buildmode=%s -o %s", t.OS, t.Arch, t.Mode, src.Handler)
	}
	compiled := path.Join(Compiled, version+t.suffix())
	if _, err := os.Stat(compiled); err != nil {
		compiled = ""
	}
	p := &builder.Plan{
		Build: &builder.Step{Key: builder.Key("go", version, src.Digest), Script: compile, Args: append([]string{program, compiled, t.OS, t.Arch, src.Handler, t.Mode, t.File, t.Text}, what...)},
		Drop:  func(name string) bool { return name == src.Handler || isGo(name) },
	}
	layer := &builder.Step{Key: builder.Key("go", version), Files: []string{}, Script: prepare, Args: []string{program, compiled, t.OS, t.Arch}}
	if sums != "" && !src.Has("vendor") && !localRE.MatchString(module) {
		layer.Key, layer.Files = builder.Key(layer.Key, requirements(module), sums), []string{"go.mod", "go.sum"}
		layer.Args = append(layer.Args, imports(src.FS, module, t)...)
	}
	if compiled == "" || len(layer.Files) > 0 {
		p.Layer = layer
	}
	return p, nil
}

var (
	// localRE finds modules of a go.mod that lie in the source.
	localRE  = regexp.MustCompile(`(?m)=>\s*"?\.{0,2}/`)
	moduleRE = regexp.MustCompile(`(?m)^module[ \t]+"?([^\s"]+)`)
)

// Module is the path of the module of a go.mod with that text; "" where it names none.
func Module(text string) string {
	m := moduleRE.FindStringSubmatch(text)
	if m == nil {
		return ""
	}
	return m[1]
}

// maxImports bounds the arguments of a step, in bytes.
const maxImports = 32 << 10

// imports lists what the program imports of other modules. What cannot be read is left out: the compiler tells.
func imports(src fs.FS, module string, t Target) []string {
	own := cmp.Or(Module(module), "lambent") // anything
	files := build.Context{
		GOOS: t.OS, GOARCH: t.Arch, Compiler: "gc", ReleaseTags: build.Default.ReleaseTags,
		JoinPath: path.Join,
		IsDir: func(name string) bool {
			info, err := fs.Stat(src, name)
			return err == nil && info.IsDir()
		},
		ReadDir: func(name string) (list []fs.FileInfo, err error) {
			entries, err := fs.ReadDir(src, name)
			for _, e := range entries {
				if info, err := e.Info(); err == nil {
					list = append(list, info)
				}
			}
			return list, err
		},
		OpenFile: func(name string) (io.ReadCloser, error) { return src.Open(name) },
	}
	others, seen := map[string]bool{}, map[string]bool{".": true}
	for dirs := []string{"."}; len(dirs) > 0; dirs = dirs[1:] {
		p, _ := files.ImportDir(dirs[0], 0) // an error comes with what it found until then
		for _, name := range p.Imports {
			dir := path.Clean(strings.TrimPrefix(strings.TrimPrefix(name, own), "/"))
			switch first, _, _ := strings.Cut(name, "/"); {
			case (name == own || strings.HasPrefix(name, own+"/")) && files.IsDir(dir):
				if !seen[dir] {
					seen[dir], dirs = true, append(dirs, dir)
				}
			case strings.Contains(first, ".") && first[0] != '.': // otherwise it is of the standard library
				others[name] = true
			}
		}
	}
	list := slices.Sorted(maps.Keys(others))
	room := maxImports
	for i, name := range list {
		if room -= len(name); room < 0 {
			return list[:i]
		}
	}
	return list
}

// files are the Go files of a source without a module.
func files(src fs.FS) (list []string, err error) {
	found, err := fs.Glob(src, "*.go")
	for _, name := range found {
		if !strings.HasSuffix(name, "_test.go") {
			list = append(list, "./"+name)
		}
	}
	return list, err
}

// requirements is what a go.mod says of others: two programs with the same and the same imports share a layer.
func requirements(module string) string {
	lines := slices.DeleteFunc(strings.Split(module, "\n"), func(line string) bool { return strings.HasPrefix(line, "module ") })
	return strings.Join(lines, "\n")
}

var buildFiles = []string{"go.mod", "go.sum", "go.work", "go.work.sum"}

// isGo tells what of a source is of no use beside the program.
func isGo(name string) bool {
	for dir := name; dir != "."; dir = path.Dir(dir) {
		if base := path.Base(dir); base == "vendor" || base == "testdata" || base[0] == '.' {
			return true
		}
	}
	base := path.Base(name)
	return strings.HasSuffix(base, ".go") || slices.Contains(buildFiles, base) || name == "lambent.yaml"
}

// find gives the go program and its version.
func find() (program, version string) {
	for _, program := range toolchains {
		real, err := filepath.EvalSymlinks(program)
		if err != nil || !strings.HasPrefix(real, "/usr/") {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, program, "env", "GOVERSION")
		cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + os.TempDir(), "GOTOOLCHAIN=local"}
		cmd.Dir = "/"
		if out, err := cmd.Output(); err == nil {
			return program, strings.TrimSpace(string(out))
		}
	}
	return "", ""
}

// Findings implements builder.Builder.
func (Builder) Findings() []lambent.Finding {
	program, version := find()
	if program == "" {
		return []lambent.Finding{{Name: "builder go", Detail: "there is no Go in /usr: Go functions cannot be built here",
			Hint: "install Go in /usr/local/go, or deploy built programs"}}
	}
	return []lambent.Finding{{Name: "builder go", OK: true, Detail: version + " at " + program}}
}
