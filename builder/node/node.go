// Package node builds Node.js functions: it installs what package-lock.json names with npm into node_modules, and
// makes JavaScript of a handler in TypeScript with esbuild.
//
// Scripts of packages run, in the sandbox; those of the function's own package.json do not: whoever has
// a build of his own runs it before he deploys.
package node

import (
	"encoding/json"
	"os"
	"os/exec"
	"path"
	"regexp"
	"strings"

	"lambent"
	"lambent/builder"
)

// Esbuild is the compiler of TypeScript: scripts/setup puts a pinned version there, where sandboxes see it.
const Esbuild = "/usr/local/lib/lambent/esbuild"

// npms is where npm may be, below /usr because sandboxes see nothing else.
var npms = []string{"/usr/lib/node_modules/npm", "/usr/local/lib/node_modules/npm", "/usr/share/nodejs/npm"}

// Builder is the builder of runtimes nodejsNN.
type Builder struct{}

var _ builder.Builder = Builder{}

const (
	modules = "node_modules"
	// install gets the packages with npm, $1, and the Node.js that runs the function, of version $2, which packages'
	// scripts find too; "" is for any. The lock names their hashes, which npm compares. What npm notes down for itself is
	// taken out.
	install = `
mkdir /work/bin
for node in /usr/bin/node /usr/local/bin/node; do
	case $("$node" --version 2>/dev/null) in
	"v$2".*)
		ln -s "$node" /work/bin/node
		break ;;
	esac
done
export PATH=/work/bin:$PATH
export npm_config_cache=/work/cache npm_config_audit=false npm_config_fund=false npm_config_update_notifier=false NO_COLOR=1
cp -r /var/task /work/src
chmod -R u+w /work/src
cd /work/src
rm -rf ` + modules + `
node -e 'const fs = require("fs"), p = JSON.parse(fs.readFileSync("package.json")); delete p.scripts; fs.writeFileSync("package.json", JSON.stringify(p))'
node "$1/bin/npm-cli.js" ci --omit=dev --no-progress --loglevel=error
mkdir -p ` + modules + `
rm -rf ` + modules + `/.package-lock.json ` + modules + `/.cache
mv ` + modules + ` /work/out/
`
	// compile bundles the function's own files. Packages stay as they are: some do not survive bundling.
	compile = `
cp -r /var/task /work/src
cd /work/src
` + Esbuild + ` "$1" --bundle --packages=external --platform=node --format=esm --target="$2" --sourcemap --log-level=warning --outfile="$3"
mkdir -p "/work/out/$(dirname "$3")"
mv "$3" "$3.map" "/work/out/$(dirname "$3")/"
`
)

// Plan implements builder.Builder.
func (Builder) Plan(src builder.Source) (*builder.Plan, error) {
	p := &builder.Plan{Ship: true}
	var err error
	if p.Layer, err = layer(src); err != nil {
		return nil, err
	}
	entry, bundle := typescript(src)
	if entry != "" {
		version := versionOf(Esbuild, "--version")
		if version == "" {
			return nil, lambent.Errorf(lambent.CodeTierUnavailable, "this node cannot compile TypeScript: %s is missing", Esbuild).
				WithHint("install it with scripts/setup; or deploy JavaScript")
		}
		p.Build = &builder.Step{Key: builder.Key("esbuild", version, src.Digest), Script: compile,
			Args: []string{entry, "node" + versionOfRuntime(src.Runtime), bundle}}
	}
	if p.Layer == nil && p.Build == nil {
		return nil, nil
	}
	p.Drop = func(name string) bool {
		return p.Layer != nil && (name == modules || strings.HasPrefix(name, modules+"/")) ||
			p.Build != nil && (name == bundle || name == bundle+".map")
	}
	return p, nil
}

// versionOfRuntime gives the 20 of nodejs20, and "" for runtimes that run any program.
func versionOfRuntime(runtime string) string {
	version, ok := strings.CutPrefix(runtime, "nodejs")
	if !ok {
		return ""
	}
	return version
}

// layer makes node_modules; it is nil where there is nothing to install.
func layer(src builder.Source) (*builder.Step, error) {
	text, ok, err := src.Read("package.json")
	if !ok || err != nil {
		return nil, err
	}
	var project struct {
		Dependencies map[string]string `json:"dependencies"`
		Optional     map[string]string `json:"optionalDependencies"`
	}
	if err := json.Unmarshal([]byte(text), &project); err != nil {
		return nil, failed("package.json: %w", err)
	}
	if len(project.Dependencies)+len(project.Optional) == 0 {
		return nil, nil
	}
	lock, ok, err := src.Read("package-lock.json")
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, unlocked(src)
	}
	npm, version := findNPM()
	if npm == "" {
		return nil, lambent.Errorf(lambent.CodeTierUnavailable, "this node cannot install Node.js packages: npm is missing").
			WithHint("install it with scripts/setup; or put node_modules into the source and deploy with --no-build")
	}
	step := &builder.Step{Key: builder.Key("npm", version, text, lock), Files: []string{"package.json", "package-lock.json"}, Script: install,
		Args: []string{npm, versionOfRuntime(src.Runtime)}}
	if localRE.MatchString(lock) {
		step.Key, step.Files = builder.Key("npm", version, src.Digest), nil
	}
	if config, ok, err := src.Read(".npmrc"); ok && step.Files != nil {
		step.Key, step.Files = builder.Key(step.Key, config), append(step.Files, ".npmrc")
	} else if err != nil {
		return nil, err
	}
	return step, nil
}

// localRE finds packages of a package-lock.json that lie in the source.
var localRE = regexp.MustCompile(`"link": true|"(resolved|version)": "file:`)

// unlocked says what a project without package-lock.json lacks, unless it brings its packages along.
func unlocked(src builder.Source) error {
	if src.Has(modules) {
		return nil
	}
	err := failed("package.json names dependencies, but no package-lock.json says which versions of them").
		WithHint("write one with: npm install --package-lock-only")
	for _, other := range []string{"yarn.lock", "pnpm-lock.yaml", "bun.lock"} {
		if src.Has(other) {
			return err.WithHint("%s is not understood; write a package-lock.json with: npm install --package-lock-only", other)
		}
	}
	return err
}

// typescript tells which file holds a handler that is TypeScript, and what it becomes; "" where it is not.
func typescript(src builder.Source) (entry, bundle string) {
	if src.Handler == "" { // a command is run as it is
		return "", ""
	}
	module := strings.TrimSuffix(src.Handler, path.Ext(src.Handler)) // of MODULE.EXPORT
	for _, ext := range []string{".mjs", ".js", ".cjs"} {
		if src.Has(module + ext) {
			return "", ""
		}
	}
	for _, ext := range []string{".ts", ".mts", ".tsx"} {
		if src.Has(module + ext) {
			return module + ext, module + ".mjs"
		}
	}
	return "", ""
}

func failed(format string, args ...any) *lambent.Error {
	return lambent.Errorf(lambent.CodeBuildFailed, format, args...)
}

// findNPM gives npm's folder and version.
func findNPM() (dir, version string) {
	for _, dir := range npms {
		raw, err := os.ReadFile(dir + "/package.json")
		var npm struct {
			Version string `json:"version"`
		}
		if err == nil && json.Unmarshal(raw, &npm) == nil {
			return dir, npm.Version
		}
	}
	return "", ""
}

func versionOf(program string, args ...string) string {
	out, err := exec.Command(program, args...).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// Findings implements builder.Builder.
func (Builder) Findings() []lambent.Finding {
	npm, version := findNPM()
	found := []lambent.Finding{{Name: "builder nodejs", OK: true, Detail: "npm " + version + " in " + npm}}
	if npm == "" {
		found[0] = lambent.Finding{Name: "builder nodejs", Detail: "npm is missing: Node.js dependencies cannot be installed", Hint: "install it with scripts/setup"}
	}
	f := lambent.Finding{Name: "builder typescript", OK: true, Detail: "esbuild " + versionOf(Esbuild, "--version")}
	if f.Detail == "esbuild " {
		f = lambent.Finding{Name: "builder typescript", Detail: Esbuild + " is missing: TypeScript cannot be compiled", Hint: "install it with scripts/setup"}
	}
	return append(found, f)
}
