//go:build integration

package node

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"lambent"
	"lambent/builder"
	"lambent/builder/buildertest"
)

const runtime = "nodejs20"

func newWorld(t *testing.T) *buildertest.World {
	env, _ := builder.Environment(os.Environ())
	return buildertest.New(t, builder.Options{Builders: map[string]builder.Builder{"nodejs": Builder{}}, Egress: builder.AnyHost, Env: env})
}

// locked adds the lock that npm writes for a package.json.
func locked(t *testing.T, files map[string]string) map[string]string {
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("npm", "install", "--package-lock-only", "--ignore-scripts", "--silent")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	lock, err := os.ReadFile(filepath.Join(dir, "package-lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	files["package-lock.json"] = string(lock)
	return files
}

func TestIntegrationLock(t *testing.T) {
	built := buildertest.Twice(t, newWorld, runtime, locked(t, map[string]string{
		"index.mjs":    "import { marked } from 'marked'; export const handler = () => marked('# hi')",
		"package.json": `{"dependencies": {"marked": "18.2.1"}, "devDependencies": {"ms": "2.1.3"}, "scripts": {"postinstall": "exit 1"}}`,
	}))
	if built["node_modules/marked/package.json"] == "" || built["node_modules/ms/package.json"] != "" || built["node_modules/.package-lock.json"] != "" {
		t.Error("the packages are not those of the lock")
	}
}

// TestIntegrationScripts installs a package whose script fetches or checks a binary.
func TestIntegrationScripts(t *testing.T) {
	built := buildertest.Twice(t, newWorld, runtime, locked(t, map[string]string{
		"index.mjs":    "",
		"package.json": `{"dependencies": {"esbuild": "0.28.2"}}`,
	}))
	if len(built["node_modules/esbuild/bin/esbuild"]) < 1<<20 {
		t.Error("the script of the package did not run")
	}
}

func TestIntegrationTypeScript(t *testing.T) {
	source := locked(t, map[string]string{
		"index.ts":     "import { marked } from 'marked'\nimport { title } from './title.js'\nexport const handler = async (event: { name?: string }): Promise<string> => marked(title(event.name ?? 'you')) as string\n",
		"title.ts":     "export const title = (name: string): string => `# Hello ${name}`\n",
		"package.json": `{"type": "module", "dependencies": {"marked": "18.2.1"}}`,
	})
	w := newWorld(t)
	built := w.Build(t, "default", runtime, source, nil)
	files := w.Files(t, built.Code)
	if !strings.Contains(files["index.mjs"], "sourceMappingURL=index.mjs.map") || !strings.Contains(files["index.mjs.map"], `"title.ts"`) {
		t.Errorf("%q, %q", files["index.mjs"], files["index.mjs.map"])
	}
	cmd := exec.Command("node", "--input-type=module", "-e", "import { handler } from './index.mjs'; console.log(await handler({}))")
	cmd.Dir = w.Tree(t, built.Code)
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "<h1>Hello you</h1>\n\n" {
		t.Errorf("%q, %v", out, err)
	}
	again := newWorld(t).Build(t, "default", runtime, source, nil)
	if again.Code != built.Code {
		t.Error("two builds differ")
	}
}

func TestIntegrationFailures(t *testing.T) {
	w := newWorld(t)
	good := locked(t, map[string]string{"index.mjs": "", "package.json": `{"dependencies": {"marked": "18.2.1"}}`})
	for _, tt := range []struct {
		name  string
		files map[string]string
		trace string
	}{
		{"a lock that is out of date", map[string]string{"package.json": `{"dependencies": {"marked": "18.2.1", "ms": "2.1.3"}}`, "package-lock.json": good["package-lock.json"]}, "Missing: ms@2.1.3 from lock file"},
		{"another hash", map[string]string{"package.json": good["package.json"], "package-lock.json": strings.Replace(good["package-lock.json"], `"sha512-`, `"sha512-AAAA`, 1)}, "EINTEGRITY"},
		{"TypeScript", map[string]string{"index.ts": "export const handler = (: string) => 1\n"}, `index.ts:1:`},
	} {
		source := w.Put(t, tt.files)
		_, err := w.Service.Build(t.Context(), "default", lambent.Build{Runtime: runtime, Handler: "index.handler", Source: source}, func(string) {})
		if e := lambent.ErrorOf(err); e == nil || e.Code != lambent.CodeBuildFailed || !strings.Contains(e.Trace, tt.trace) {
			t.Errorf("%s: %v\n%s", tt.name, err, e.Trace)
		}
	}
}
