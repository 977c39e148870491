package wasm

import (
	"encoding/json"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"lambent"
	"lambent/builder"
	nodejs "lambent/builder/node"
	sdk "lambent/shim/wasm"
)

const (
	// compilers are the versions of the compiler of AssemblyScript: scripts/setup puts a pinned one there.
	compilers = "/usr/local/lib/lambent/assemblyscript/*/node_modules/assemblyscript/bin/asc.js"
	// compileScript takes the module, the compiler and what is given to it. lambent.ts also has what the language itself
	// needs of its host, so that it is a library where the source does not import it as a file.
	compileScript = open + `
module=$1
asc=$2
shift 2
[ ! -e ` + builder.LayerDir + `/node_modules ] || ln -sfn ` + builder.LayerDir + `/node_modules node_modules
if ! grep -rqE --include='*.ts' --exclude=lambent.ts --exclude-dir=node_modules "['\"]\.{1,2}/(.*/)?lambent['\"]" .; then
	mkdir /work/lib
	printf %s "$own" >/work/lib/lambent.ts
	set -- "$@" --lib ../lib # its files are roots only if its path is relative
fi
node=/usr/bin/node
[ -x "$node" ] || node=/usr/local/bin/node
"$node" --enable-source-maps "$asc" "$@" --outFile /work/made.wasm --noColors --use abort=lambent_abort --use trace=lambent_trace --use seed=lambent_seed
mv /work/made.wasm "/work/out/$module"
`
)

// entries is where a module of AssemblyScript begins, in the order in which they are looked for.
var entries = []string{"main.ts", "index.ts", "assembly/index.ts", "src/index.ts"}

func scriptFiles(src builder.Source) ([]string, error) {
	return glob(src, append([]string{"asconfig.json"}, entries...)...)
}

// planScript compiles with the settings of asconfig.json, or with ours where there is none.
func planScript(src builder.Source, files []string) (*builder.Plan, error) {
	compiler, version := findCompiler()
	if compiler == "" {
		return nil, lacking(src, "AssemblyScript", "its compiler is missing", "npx asc "+files[0]+" -o MODULE")
	}
	p := &builder.Plan{}
	packages, err := nodejs.Builder{}.Plan(builder.Source{FS: src.FS, Digest: src.Digest, Runtime: src.Runtime})
	if err != nil {
		return nil, err
	}
	if packages != nil {
		p.Layer = packages.Layer
	}
	entry, args, err := configured(src)
	if err != nil {
		return nil, err
	}
	if entry == "" {
		i := slices.IndexFunc(files, func(name string) bool { return name != "asconfig.json" })
		if i < 0 {
			return nil, failed("asconfig.json names no entries, and there is none of %s", strings.Join(entries, ", ")).
				WithHint(`add to asconfig.json: "entries": ["assembly/index.ts"]`)
		}
		entry, args = files[i], append(args, files[i])
	}
	p.Build = &builder.Step{
		Key: builder.Key("assemblyscript", version, src.Digest), Script: compileScript,
		Args: append([]string{path.Dir(entry), "lambent.ts", sdk.Source("lambent.ts"), src.Handler, compiler}, args...),
	}
	if p.Layer != nil {
		p.Build.Key = builder.Key(p.Build.Key, p.Layer.Key)
	}
	return p, nil
}

// configured gives the first entry that asconfig.json names, "" for none, and what to tell the compiler.
func configured(src builder.Source) (entry string, args []string, err error) {
	text, ok, err := src.Read("asconfig.json")
	if err != nil {
		return "", nil, err
	}
	if !ok {
		return "", []string{"--optimize"}, nil
	}
	var config struct {
		Entries []string `json:"entries"`
	}
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		return "", nil, failed("asconfig.json: %w", err)
	}
	if len(config.Entries) > 0 {
		return path.Clean(config.Entries[0]), nil, nil
	}
	return "", nil, nil
}

// findCompiler gives the compiler of AssemblyScript and its version.
func findCompiler() (file, version string) {
	found, _ := filepath.Glob(compilers)
	if len(found) == 0 {
		return "", ""
	}
	return found[0], strings.Split(found[0], "/")[6]
}

func findScript() lambent.Finding {
	file, version := findCompiler()
	if file == "" {
		return lambent.Finding{Detail: "the compiler of AssemblyScript is missing", Hint: "install it with scripts/setup"}
	}
	return lambent.Finding{OK: true, Detail: "AssemblyScript " + version}
}
