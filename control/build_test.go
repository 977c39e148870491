package control_test

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"lambent"
	"lambent/control"
	"lambent/control/controltest"
)

const builds = "/v1/namespaces/default/builds"

func TestBuild(t *testing.T) {
	w := newWorld(t)
	source, code := w.upload("source"), w.upload("code")
	var got lambent.Build
	w.Build = func(_ context.Context, namespace string, b lambent.Build, log func(string)) (*lambent.Built, error) {
		got = b
		log("added 1 package")
		if b.Handler == "bad.handler" {
			e := lambent.Errorf(lambent.CodeBuildFailed, "the build tool exited with code 1")
			e.Trace = "what it said"
			return nil, e
		}
		return &lambent.Built{Code: code, Layer: source, Duration: 1}, nil
	}
	body := func(runtime, handler, source string) string {
		return fmt.Sprintf(`{"runtime":%q,"handler":%q,"source":%q}`, runtime, handler, source)
	}
	resp, raw := w.do("POST", builds, body("nodejs", "", source))
	want := `{"log":"added 1 package"}` + "\n" + fmt.Sprintf(`{"built":{"code":%q,"layer":%q,"cached":false,"duration_ms":1}}`, code, source) + "\n"
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/x-ndjson" || raw != want {
		t.Errorf("%s %s", resp.Status, raw)
	}
	if want := (lambent.Build{Runtime: "nodejs20", Handler: "index.handler", Source: source}); got != want {
		t.Errorf("built %+v", got)
	}
	_, raw = w.do("POST", builds, body("nodejs20", "bad.handler", source))
	if !strings.HasSuffix(raw, `{"error":{"code":"build_failed","fault":"function","message":"the build tool exited with code 1","trace":"what it said"}}`+"\n") {
		t.Errorf("%s", raw)
	}
	w.fails(lambent.CodeNotFound, "POST", builds, body("go", "", "sha256:"+strings.Repeat("0", 64)))
	w.fails(lambent.CodeInvalidRequest, "POST", builds, body("cobol", "", source))
	w.fails(lambent.CodeInvalidRequest, "POST", builds, body("go", "../main", source))
	w.fails(lambent.CodeInvalidRequest, "POST", builds, `{"runtime":"go","sauce":"x"}`)
	w.fails(lambent.CodeInvalidRequest, "POST", "/v1/namespaces/No/builds", body("go", "", source))

	// What a namespace's key has built it may deploy, and nobody else of another namespace.
	w.team()
	const auth, mine, others = "Authorization", "Bearer team-deploy", "Bearer other-deploy"
	resp, raw = w.do("PUT", "/v1/code", "mine", auth, mine)
	var b struct{ Digest string }
	if err := json.Unmarshal([]byte(raw), &b); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status, raw)
	}
	team := "/v1/namespaces/team/"
	if resp, raw := w.do("POST", team+"builds", body("go", "", b.Digest), auth, mine); resp.StatusCode != 200 || !strings.Contains(raw, "built") {
		t.Errorf("%s %s", resp.Status, raw)
	}
	if resp, raw := w.do("PUT", team+"functions/f", deployBody(`{"runtime":"go"}`, code), auth, mine); resp.StatusCode != 201 {
		t.Errorf("%s %s", resp.Status, raw)
	}
	if resp, raw := w.do("POST", "/v1/namespaces/other/builds", body("go", "", b.Digest), auth, others); resp.StatusCode != 404 {
		t.Errorf("%s %s", resp.Status, raw)
	}
}

// Who does not read what a build says does not hold it up.
func TestBuildOfClientThatDoesNotRead(t *testing.T) {
	w := newWorld(t)
	source := w.upload("source")
	const lines = 10_000
	ended := make(chan struct{})
	w.Build = func(_ context.Context, _ string, b lambent.Build, log func(string)) (*lambent.Built, error) {
		defer close(ended)
		for range lines {
			log(strings.Repeat("x", 4096))
		}
		return &lambent.Built{Code: b.Source}, nil
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.URL+builds, strings.NewReader(fmt.Sprintf(`{"runtime":"go","source":%q}`, source)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+controltest.Key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the build waits for its client")
	}
	count, left := 0, 0
	for dec := json.NewDecoder(resp.Body); ; {
		var line control.BuildLine
		if err := dec.Decode(&line); err != nil {
			t.Fatal(err)
		}
		if line.Log == nil {
			if line.Built == nil {
				t.Errorf("the last line is %+v", line)
			}
			break
		}
		var n int
		if _, err := fmt.Sscanf(*line.Log, "(%d lines left out", &n); err == nil {
			left += n
		} else {
			count++
		}
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil { // the log is written before its end
		t.Fatal(err)
	}
	if left == 0 || count+left != lines {
		t.Errorf("%d lines and %d left out, want %d", count, left, lines)
	}
	if want := "audit operation=build path=" + builds; !strings.Contains(w.Log(), want) || strings.Contains(w.Log(), "status=0") {
		t.Errorf("logged %s", w.Log())
	}
}

func TestDiffDependencies(t *testing.T) {
	w := newWorld(t)
	file := func(name, content string) tar.Header {
		return tar.Header{Typeflag: tar.TypeReg, Name: name, Linkname: content, Mode: 0o644}
	}
	a := w.upload(archive(t,
		file("node_modules/@a/b/package.json", `{"version":"1.0.0"}`), file("node_modules/gone/package.json", `{"version":"2.0.0"}`),
		file("node_modules/gone/node_modules/@a/b/package.json", `{"version":"0.9.0"}`), file("node_modules/odd/package.json", "no JSON"),
		file("site-packages/typing_extensions-4.0.dist-info/METADATA", "")))
	b := w.upload(archive(t,
		file("node_modules/@a/b/package.json", `{"version":"1.1.0"}`), file("node_modules/new/package.json", `{"version":"3.0.0"}`),
		file("site-packages/typing_extensions-4.1.dist-info/METADATA", "")))
	w.gives(201, nil, "PUT", hello, deployBody(`{"runtime":"python3.9"}`, a))
	w.alias(201, "POST", "/publish", "")
	w.gives(200, nil, "PUT", hello, deployBody(`{"runtime":"python3.9"}`, b))
	check := func(from string, want ...string) {
		t.Helper()
		var d lambent.Diff
		w.gives(200, &d, "GET", hello+"/diff?from="+from+"&to=latest", "")
		var got []string
		for _, p := range d.Dependencies {
			got = append(got, p.Name+" "+p.From+" "+p.To)
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	check("1", "@a/b 0.9.0, 1.0.0 1.1.0", "gone 2.0.0 ", "new  3.0.0", "typing-extensions 4.0 4.1")

	// Go's are compiled in: the source tells them.
	deploy := func(mod string) {
		source, code := w.upload(archive(t, file("go.mod", mod))), w.upload(archive(t, file("main", mod)))
		w.gives(200, nil, "PUT", hello, fmt.Sprintf(`{"settings":{"runtime":"go"},"code":%q,"source":%q}`, code, source))
		w.alias(201, "POST", "/publish", "")
	}
	deploy("module x.y/z\n\ngo 1.24\n\nrequire example.com/a v1.0.0\n")
	deploy("module x.y/z\n\ngo 1.24\n\nrequire (\n\texample.com/a v1.1.0\n\texample.com/b/v2 v2.0.0 // indirect\n)\n")
	check("2", "example.com/a v1.0.0 v1.1.0", "example.com/b/v2  v2.0.0")
}
