package node

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"lambent"
	"lambent/builder"
)

func source(handler string, files map[string]string) builder.Source {
	fs := fstest.MapFS{}
	for name, text := range files {
		fs[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return builder.Source{FS: fs, Digest: "sha256:0", Runtime: "nodejs20", Handler: handler}
}

const (
	project = `{"dependencies": {"ms": "2.1.3"}}`
	lock    = `{"packages": {"node_modules/ms": {"version": "2.1.3"}}}`
)

func TestLayer(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files map[string]string
		built bool
		sees  []string
	}{
		{"nothing", map[string]string{"index.js": ""}, false, nil},
		{"no dependencies", map[string]string{"package.json": `{"type": "module", "devDependencies": {"ms": "*"}}`}, false, nil},
		{"lock", map[string]string{"package.json": project, "package-lock.json": lock}, true, []string{"package.json", "package-lock.json"}},
		{"settings of npm", map[string]string{"package.json": project, "package-lock.json": lock, ".npmrc": "x=y"}, true, []string{"package.json", "package-lock.json", ".npmrc"}},
		{"local package", map[string]string{"package.json": project, "package-lock.json": `{"node_modules/own": {"resolved": "libs/own", "link": true}}`}, true, nil},
		{"local archive", map[string]string{"package.json": project, "package-lock.json": `{"resolved": "file:own.tgz"}`}, true, nil},
		{"brings its packages", map[string]string{"package.json": project, "node_modules/ms/package.json": "{}"}, false, nil},
	} {
		step, err := layer(source("index.handler", tt.files))
		if err != nil || (step != nil) != tt.built || step != nil && !slices.Equal(step.Files, tt.sees) {
			t.Errorf("%s: %+v, %v", tt.name, step, err)
		}
	}
	for name, tt := range map[string]struct {
		files map[string]string
		hint  string
	}{
		"no lock":    {map[string]string{"package.json": project}, "npm install --package-lock-only"},
		"yarn":       {map[string]string{"package.json": project, "yarn.lock": ""}, "yarn.lock is not understood"},
		"pnpm":       {map[string]string{"package.json": project, "pnpm-lock.yaml": ""}, "pnpm-lock.yaml is not understood"},
		"not a JSON": {map[string]string{"package.json": "{"}, ""},
	} {
		_, err := layer(source("index.handler", tt.files))
		if e := lambent.ErrorOf(err); e == nil || e.Code != lambent.CodeBuildFailed || !strings.Contains(e.Hint, tt.hint) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTypeScript(t *testing.T) {
	for _, tt := range []struct {
		handler       string
		files         []string
		entry, bundle string
	}{
		{"index.handler", []string{"index.ts"}, "index.ts", "index.mjs"},
		{"src/app.default", []string{"src/app.mts"}, "src/app.mts", "src/app.mjs"},
		{"index.handler", []string{"index.ts", "index.js"}, "", ""},
		{"index.handler", []string{"main.ts"}, "", ""},
		{"", []string{".ts"}, "", ""}, // a command
	} {
		files := map[string]string{}
		for _, name := range tt.files {
			files[name] = ""
		}
		if entry, bundle := typescript(source(tt.handler, files)); entry != tt.entry || bundle != tt.bundle {
			t.Errorf("%s of %v: %q, %q", tt.handler, tt.files, entry, bundle)
		}
	}
}
