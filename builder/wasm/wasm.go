// Package wasm builds functions of runtime wasm: one module, of a source in Go, C, Rust or AssemblyScript, or none where
// the source is a module already.
//
// The code is the module and nothing else, because a module has no files to see. Of a source runs in a build what npm's
// packages run when they are installed, and what AssemblyScript takes for transforms.
package wasm

import (
	"io/fs"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"lambent"
	"lambent/builder"
	"lambent/builder/golang"
	sdk "lambent/shim/wasm"
)

// Builder is the builder of runtime wasm.
type Builder struct{}

var _ builder.Builder = Builder{}

// language is one that modules are made of.
type language struct {
	name string
	// sources lists the files of a source that are of the language, in order; none when it is of another.
	sources func(src builder.Source) ([]string, error)
	plan    func(src builder.Source, files []string) (*builder.Plan, error)
	finding func() lambent.Finding
}

var languages = []language{
	{"Go", goFiles, planGo, findGo},
	{"C", cFiles, planC, findC},
	{"Rust", rustFiles, planRust, findRust},
	{"AssemblyScript", scriptFiles, planScript, findScript},
}

// Plan implements builder.Builder. Where there is source, a module that lies beside it is an older build.
func (Builder) Plan(src builder.Source) (*builder.Plan, error) {
	var in *language
	var files []string
	for i, l := range languages {
		found, err := l.sources(src)
		switch {
		case err != nil:
			return nil, err
		case len(found) == 0:
		case in != nil:
			return nil, failed("there are both %s (%s) and %s (%s), and a module is made of one language", files[0], in.name, found[0], l.name).
				WithHint("take one away; or build it yourself and deploy %s with --no-build", src.Handler)
		default:
			in, files = &languages[i], found
		}
	}
	if in == nil {
		if !src.Has(src.Handler) {
			return nil, failed("there is neither %s nor source in Go, C, Rust or AssemblyScript to make it of", src.Handler).
				WithHint("name the module in handler; source is looked for in the top folder and in src and assembly")
		}
		return nil, nil
	}
	p, err := in.plan(src, files)
	if p != nil {
		p.Drop = func(string) bool { return true }
	}
	return p, err
}

// Findings implements builder.Builder.
func (Builder) Findings() (all []lambent.Finding) {
	for _, l := range languages {
		f := l.finding()
		f.Name = "builder wasm " + l.name
		all = append(all, f)
	}
	return all
}

func failed(format string, args ...any) *lambent.Error {
	return lambent.Errorf(lambent.CodeBuildFailed, format, args...)
}

// lacking says that a compiler is missing, what it is installed with and what else can be done.
func lacking(src builder.Source, language, what, command string) error {
	return lambent.Errorf(lambent.CodeTierUnavailable, "this node cannot compile %s to WebAssembly: %s", language, what).
		WithHint("install it with scripts/setup; or compile it yourself and deploy it with --no-build: %s", strings.ReplaceAll(command, "MODULE", src.Handler))
}

// glob lists the files of the patterns, in the order of the patterns and then of the names.
func glob(src builder.Source, patterns ...string) (files []string, err error) {
	for _, pattern := range patterns {
		found, err := fs.Glob(src.FS, pattern)
		if err != nil {
			return nil, err
		}
		files = append(files, found...)
	}
	return files, nil
}

// open begins the script of a compiler that writes below its folder: a copy of the source to work in, and beside its
// files, in folder $1, the one of our own, $2 with the text $3, unless the source has one of that name.
const open = `
cp -r /var/task /work/src
chmod -R u+w /work/src
cd /work/src
[ ! -d "$1" ] || [ -e "$1/$2" ] || printf %s "$3" >"$1/$2"
own=$3
shift 3
mkdir -p "/work/out/$(dirname "$1")"
`

func goFiles(src builder.Source) ([]string, error) {
	files, err := glob(src, "go.mod", "*.go")
	return slices.DeleteFunc(files, func(name string) bool { return strings.HasSuffix(name, "_test.go") }), err
}

// planGo compiles a library that the platform calls where the source imports our package or exports something by itself,
// and else a program.
func planGo(src builder.Source, files []string) (*builder.Plan, error) {
	manifest, _, err := src.Read("go.mod")
	if err != nil {
		return nil, err
	}
	target, own := golang.WASICommand, strconv.Quote(golang.Module(manifest)+"/lambent")
	for _, name := range files {
		text, _, err := src.Read(name)
		if err != nil {
			return nil, err
		}
		if path.Ext(name) == ".go" && (strings.Contains(text, own) || exportRE.MatchString(text)) {
			target = golang.WASIReactor
			target.File, target.Text = "lambent/lambent.go", sdk.Source("lambent.go")
		}
	}
	return golang.Plan(src, target)
}

func findGo() lambent.Finding { return golang.Builder{}.Findings()[0] }

// exportRE finds what a Go program exports to its host.
var exportRE = regexp.MustCompile(`(?m)^//go:wasmexport `)

// versionOf is what a program says of itself; "" where it is missing.
func versionOf(program string, args ...string) string {
	out, err := exec.Command(program, args...).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}
