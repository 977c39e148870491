package builder_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lambent/builder"
	"lambent/builder/buildertest"
	"lambent/builder/node"
	"lambent/builder/python"
)

// The attacks are what a package runs while it is installed, in the language of its script: it says what it got at. The
// packages lie in the source, so that no registry is needed.
const attackPython = `
import glob, os, socket
def attempt(what, f):
    try:
        print("GOT", what, f())
    except Exception:
        pass
attempt("key", lambda: open("KEY").read())
attempt("environment", lambda: [v for v in os.environ.values() if "lk_secret" in v][0])
attempt("layers", lambda: glob.glob("/**/ns-victim", recursive=False)[0])
attempt("loopback", lambda: socket.create_connection(("127.0.0.1", PORT), 2))
for d in ("/var/task", "/usr/lib", "/etc", "/", "/var/layer"):
    attempt("write", lambda: open(d + "/evil", "w"))
`

const attackNode = `
const fs = require("fs"), net = require("net");
const said = ["ran with " + require("child_process").execSync("command -v node")]; // npm keeps what scripts write to itself
process.on("exit", () => fs.writeFileSync(__dirname + "/ran", said.join("\n")));
const attempt = (what, f) => { try { said.push("GOT " + what + " " + f()); } catch {} };
attempt("key", () => fs.readFileSync("KEY", "utf8"));
attempt("environment", () => Object.values(process.env).filter((v) => v.includes("lk_secret"))[0].length);
for (const d of ["/var/task", "/usr/lib", "/etc", "/", "/var/layer"]) attempt("write", () => fs.writeFileSync(d + "/evil", ""));
net.connect(PORT, "127.0.0.1", () => { said.push("GOT loopback"); process.exit(0); }).on("error", () => process.exit(0));
`

func TestHostilePackages(t *testing.T) {
	w := buildertest.New(t, builder.Options{Builders: map[string]builder.Builder{"python3.": python.Builder{}, "nodejs": node.Builder{}}})
	key := filepath.Join(w.Dir, "admin.key")
	if err := os.WriteFile(key, []byte("lk_secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("LAMBENT_TEST_SECRET", "lk_secret")
	fill := strings.NewReplacer("KEY", key, "PORT", w.Port(t)).Replace
	check := func(t *testing.T, runtime string, source map[string]string, ran, with string) {
		var said []string
		built := w.Build(t, "attacker", runtime, source, func(line string) { said = append(said, line) })
		files := w.Files(t, built.Code)
		if !strings.HasPrefix(files[ran], "ran "+with) {
			t.Errorf("the script did not run: %q, %v", files[ran], said)
		}
		if text := strings.Join(said, "\n") + files[ran]; strings.Contains(text, "GOT") {
			t.Errorf("it worked: %s", text)
		}
	}

	t.Run("setup of a Python package", func(t *testing.T) {
		check(t, w.Runtime(t, "python3."), map[string]string{
			"main.py":             "",
			"requirements.txt":    "./evil\n",
			"evil/pyproject.toml": "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n[project]\nname = \"evil\"\nversion = \"1\"\n",
			"evil/backend.py": `import contextlib, io, zipfile
said = io.StringIO()
with contextlib.redirect_stdout(said):
    exec(` + "'''" + strings.ReplaceAll(fill(attackPython), `\`, `\\`) + "'''" + `)
def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "evil-1-py3-none-any.whl"
    with zipfile.ZipFile(folder + "/" + name, "w") as z:
        z.writestr("evil.txt", "ran " + said.getvalue())
        z.writestr("evil-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: evil\nVersion: 1\n")
        z.writestr("evil-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        z.writestr("evil-1.dist-info/RECORD", "")
    return name
`,
		}, "site-packages/evil.txt", "")
	})

	t.Run("script of a Node.js package", func(t *testing.T) {
		archive := pack(t, map[string]string{
			"package/package.json": `{"name": "evil", "version": "1.0.0", "scripts": {"postinstall": "node attack.js"}}`,
			"package/attack.js":    fill(attackNode),
		})
		sum := sha512.Sum512(archive)
		check(t, w.Runtime(t, "nodejs"), map[string]string{
			"index.js":     "",
			"evil.tgz":     string(archive),
			"package.json": `{"name": "app", "version": "1.0.0", "dependencies": {"evil": "file:evil.tgz"}}`,
			"package-lock.json": `{"name": "app", "version": "1.0.0", "lockfileVersion": 3, "requires": true, "packages": {
				"": {"name": "app", "version": "1.0.0", "dependencies": {"evil": "file:evil.tgz"}},
				"node_modules/evil": {"version": "1.0.0", "resolved": "file:evil.tgz", "hasInstallScript": true, "integrity": "sha512-` +
				base64.StdEncoding.EncodeToString(sum[:]) + `"}}}`,
		}, "node_modules/evil/ran", "with /work/bin/node") // the function's own
	})
}

// pack makes a tar.gz.
func pack(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var archive bytes.Buffer
	zipped := gzip.NewWriter(&archive)
	out := tar.NewWriter(zipped)
	for name, text := range files {
		if err := out.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(out, text); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []io.Closer{out, zipped} {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return archive.Bytes()
}
