// Package python builds Python functions: it installs what requirements.txt, uv.lock or poetry.lock name with uv
// into the folder site-packages of the code, compiled, so that importing it takes less time.
package python

import (
	_ "embed"
	"fmt"
	"os/exec"
	"regexp"
	"strings"

	"lambent"
	"lambent/builder"
)

// UV is the installer: scripts/setup puts a pinned version there, where sandboxes see it.
const UV = "/usr/local/lib/lambent/uv"

// Packages is the folder of the code that packages are installed in; the shim adds it to sys.path.
const Packages = "site-packages"

// Builder is the builder of runtimes python3.N.
type Builder struct{}

var _ builder.Builder = Builder{}

//go:embed poetry.py
var poetry string

const (
	// install installs the requirements of the file $1 for the interpreter $python; further arguments are options.
	// What tells of the place and the time of a build is taken out. Compiled modules count as valid without a look at
	// their source (PEP 552), because the code never changes. Some packages hold templates that do not compile.
	install = `
install() {
	requirements=$1; shift
	mkdir -p /work/out/` + Packages + `
	"$uv" pip install --quiet --no-progress --target /work/out/` + Packages + ` --python "$python" --link-mode hardlink "$@" -r "$requirements"
	cd /work/out/` + Packages + `
	rm -f .lock
	find . -path './*.dist-info/*' \( -name uv_cache.json -o -name uv_build.json \) -delete
	find . -path './*.dist-info/RECORD' -exec sed -i -e '/\.dist-info\/uv_/d' {} +
	cd /
	PYTHONHASHSEED=0 "$python" -s -S -m compileall -qq --invalidation-mode unchecked-hash -s /work/out -p /var/task /work/out/` + Packages + ` || :
}
uv=` + UV + `
python=/usr/bin/$1
export UV_CACHE_DIR=/work/cache UV_PYTHON_DOWNLOADS=never UV_NO_CONFIG=1 NO_COLOR=1
export SOURCE_DATE_EPOCH=315532800 CFLAGS=-g0 CXXFLAGS=-g0
cp -r /var/task /work/src
chmod -R u+w /work/src
cd /work/src
`
	fromRequirements = install + `install requirements.txt`
	fromHashes       = install + `install requirements.txt --require-hashes`
	export           = install + `
unset UV_NO_CONFIG
"$uv" export --quiet --frozen --no-dev --no-emit-project --no-editable --no-header --python "$python" -o /work/requirements.txt >/work/export.out
`
	fromUV      = export + `install /work/requirements.txt --no-deps --require-hashes`
	fromUVLocal = export + `install /work/requirements.txt --no-deps`
	fromPoetry  = install + `
"$python" -I -c "$2" >/work/requirements.txt
install /work/requirements.txt --no-deps --require-hashes`
)

// Plan implements builder.Builder.
func (Builder) Plan(src builder.Source) (*builder.Plan, error) {
	p, err := planOf(src)
	if p == nil || err != nil {
		return nil, err
	}
	uv := version()
	if uv == "" {
		return nil, lambent.Errorf(lambent.CodeTierUnavailable, "this node cannot install Python packages: %s is missing", UV).
			WithHint("install it with scripts/setup; or put the packages into the source and deploy with --no-build")
	}
	p.Layer.Key = builder.Key(p.Layer.Key, uv)
	return p, nil
}

func planOf(src builder.Source) (*builder.Plan, error) {
	project, _, err := src.Read("pyproject.toml")
	if err != nil {
		return nil, err
	}
	if lock, ok, err := src.Read("uv.lock"); ok || err != nil {
		if err != nil {
			return nil, err
		}
		if !src.Has("pyproject.toml") {
			return nil, failed("there is a uv.lock, but no pyproject.toml").WithHint("deploy the whole project")
		}
		if local := localUV.FindString(lock); local != "" {
			return plan(src, fromUVLocal, src.Digest, nil), nil
		}
		return plan(src, fromUV, builder.Key(project, lock), []string{"pyproject.toml", "uv.lock"}), nil
	}
	if lock, ok, err := src.Read("poetry.lock"); ok || err != nil {
		if err != nil {
			return nil, err
		}
		if m := poetryVersion.FindStringSubmatch(lock); m == nil || m[1] != "2" || m[2] == "0" {
			return nil, failed("poetry.lock was written by a Poetry before 2.0: it does not tell what belongs to which group").
				WithHint("write it again with Poetry 2: poetry lock")
		}
		p := plan(src, fromPoetry, lock, []string{"poetry.lock"})
		p.Layer.Args = append(p.Layer.Args, poetry)
		return p, nil
	}
	text, ok, err := src.Read("requirements.txt")
	switch {
	case err != nil:
		return nil, err
	case ok:
		return planRequirements(src, text), nil
	case declaresDependencies(project):
		return nil, failed("pyproject.toml names dependencies, but no lock file says which versions of them").
			WithHint("write one with: uv lock (or: uv export -o requirements.txt, poetry lock); or deploy with --no-build")
	}
	return nil, nil
}

func planRequirements(src builder.Source, text string) *builder.Plan {
	r := readRequirements(text)
	if r.empty {
		return nil
	}
	script := fromRequirements
	if r.hashes {
		script = fromHashes
	}
	if r.local {
		return plan(src, script, src.Digest, nil)
	}
	p := plan(src, script, text, []string{"requirements.txt"})
	if len(r.loose) > 0 {
		p.Warnings = append(p.Warnings, fmt.Sprintf("requirements.txt does not pin %s with ==: a later build may install another version", strings.Join(r.loose, ", ")))
	}
	return p
}

func plan(src builder.Source, script, key string, files []string) *builder.Plan {
	return &builder.Plan{
		Layer: &builder.Step{Key: builder.Key("python", key), Files: files, Script: script, Args: []string{src.Runtime}},
		Ship:  true,
		Drop: func(path string) bool {
			return path == Packages || strings.HasPrefix(path, Packages+"/")
		},
	}
}

func failed(format string, args ...any) *lambent.Error {
	return lambent.Errorf(lambent.CodeBuildFailed, format, args...)
}

var (
	// localUV finds packages of uv.lock that lie in the source, but for the project itself.
	localUV       = regexp.MustCompile(`(?m)^source = \{ (editable|virtual|directory|path) = "([^".][^"]*|\.[^"]+)"`)
	poetryVersion = regexp.MustCompile(`(?m)^lock-version = "([0-9]+)\.([0-9]+)"`)
	nameRE        = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*`)
)

// requirements is what a requirements.txt is about.
type requirements struct {
	empty  bool
	hashes bool     // it pins what is downloaded
	local  bool     // it refers to other files of the source
	loose  []string // packages without an exact version
}

func readRequirements(text string) requirements {
	r := requirements{empty: true}
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", " ")) {
		line, _, _ = strings.Cut(" "+line, " #")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		r.empty = false
		r.hashes = r.hashes || strings.Contains(line, "--hash=")
		switch name := nameRE.FindString(line); {
		case name == "" && (strings.HasPrefix(line, "--index-url") || strings.HasPrefix(line, "--extra-index-url") || strings.HasPrefix(line, "-i ")):
		case name == "", strings.Contains(line, "file:"), isPath(line):
			r.local = true
		case !strings.Contains(line, "=="):
			r.loose = append(r.loose, name)
		}
	}
	return r
}

// isPath tells whether a requirement is a folder or an archive of the source.
func isPath(line string) bool {
	first, _, _ := strings.Cut(line, " ")
	first, _, _ = strings.Cut(first, "@")
	return strings.Contains(first, "/") || strings.HasSuffix(first, ".whl") || strings.HasSuffix(first, ".tar.gz") || strings.HasSuffix(first, ".zip")
}

// declaresDependencies tells whether a pyproject.toml is more than the settings of tools.
func declaresDependencies(project string) bool {
	section := ""
	for line := range strings.Lines(project) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") && !strings.Contains(line, "=") {
			section = strings.Trim(line, "[] ")
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		key, value = strings.TrimSpace(key), strings.ReplaceAll(value, " ", "")
		switch {
		case !ok || strings.HasPrefix(key, "#"):
		case section == "project" && key == "dependencies" && !strings.HasPrefix(value, "[]"),
			section == "tool.poetry.dependencies" && key != "python":
			return true
		}
	}
	return false
}

// version is uv's, "" where there is none.
func version() string {
	out, err := exec.Command(UV, "--version").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// Findings implements builder.Builder.
func (Builder) Findings() []lambent.Finding {
	f := lambent.Finding{Name: "builder python", OK: true, Detail: version()}
	if f.Detail == "" {
		f.OK, f.Detail, f.Hint = false, UV+" is missing: Python dependencies cannot be installed", "install it with scripts/setup"
	}
	return []lambent.Finding{f}
}
