//go:build integration

package wasm_test

import (
	"os"
	"testing"

	"lambent/builder"
	"lambent/builder/buildertest"
	"lambent/builder/wasm"
)

// TestIntegrationDependencies builds modules with packages of others.
func TestIntegrationDependencies(t *testing.T) {
	env, _ := builder.Environment(os.Environ())
	w := buildertest.New(t, builder.Options{Builders: map[string]builder.Builder{"wasm": wasm.Builder{}}, Egress: builder.AnyHost, Env: env})
	for name, files := range map[string]map[string]string{
		"Go": {
			"go.mod":  "module a.test/hi\n\ngo 1.24\n\nrequire github.com/google/uuid v1.6.0\n",
			"go.sum":  "github.com/google/uuid v1.6.0 h1:NIvaJDMOsjHA8n1jAhLSgzrAzy1Hgr+hNrb57e+94F0=\ngithub.com/google/uuid v1.6.0/go.mod h1:TIyPZe4MgqvfeYDBFedMoGGpEw/LqOeaOT+nhxU+yHo=\n",
			"main.go": "package main\n\nimport (\n\t\"github.com/google/uuid\"\n\n\t\"a.test/hi/lambent\"\n)\n\nfunc init() {\n\tlambent.Handle(func(w *lambent.ResponseWriter, r *lambent.Request) { w.WriteString(\"hi \" + uuid.Nil.String()[:8]) })\n}\n\nfunc main() {}\n",
		},
		"AssemblyScript": {
			"package.json": `{"name": "hi", "version": "1.0.0", "dependencies": {"as-string-sink": "0.5.3"}}`,
			"package-lock.json": `{
				"name": "hi", "version": "1.0.0", "lockfileVersion": 3, "requires": true,
				"packages": {
					"": {"name": "hi", "version": "1.0.0", "dependencies": {"as-string-sink": "0.5.3"}},
					"node_modules/as-string-sink": {"version": "0.5.3", "integrity": "sha512-DN/QqfptDhi4FaBqehMN9wH5Dl/PcTSfCfzSmcdtf3OVYYIEip5iyVUcS6t40BAP/OoUwtxCCbD/dlr2kVG+3Q=="}
				}
			}`,
			"assembly/index.ts": "import { StringSink } from \"as-string-sink/assembly\";\nimport { Response } from \"./lambent\";\n\nexport function handle(): void {\n  const text = new StringSink(\"hi \");\n  for (let i = 0; i < 8; i++) text.write(\"0\");\n  new Response().send(text.toString());\n}\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			built := w.Build(t, "default", "wasm", files, nil)
			if built.Layer == "" {
				t.Error("there is no layer")
			}
			code := w.Files(t, built.Code)
			if got := call(t, code["main.wasm"]); got != "hi 00000000" || len(code) != 1 {
				t.Errorf("%d files answered %q", len(code), got)
			}
		})
	}
}
