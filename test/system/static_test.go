package system

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"lambent"
)

// The example site, through the whole platform: no code of a function runs.
func TestStatic(t *testing.T) {
	n := start(t, t.TempDir())
	site := files{}
	for _, path := range []string{"index.html", "app.js", "style.css", "about/index.html"} {
		raw, err := os.ReadFile("../../examples/site/public/" + path)
		if err != nil {
			t.Fatal(err)
		}
		site["public/"+path] = string(raw)
	}
	d := n.deploy("site", site, lambent.Settings{Runtime: "static", Handler: "public"})
	if s := d.Function.Latest.Settings; s.Tier != lambent.TierBuiltin {
		t.Errorf("settings %+v", s)
	}
	const host = "site.default.localhost"
	home := n.on("GET", host, "/")
	home.want(t, 200, `src="/app.js"`)
	if home.header.Get("Content-Type") != "text/html; charset=utf-8" || home.header.Get("Etag") == "" {
		t.Errorf("header %v", home.header)
	}
	n.on("GET", host, "/notes/5").want(t, 200, `src="/app.js"`)
	n.on("GET", host, "/about/").want(t, 200, "stay in this browser")
	n.on("GET", host, "/missing.js").want(t, 404, "")
	n.on("GET", host, "/../../../../etc/passwd").want(t, 404, "")
	n.on("POST", host, "/").want(t, 405, "")
	n.call("GET", "/fn/site/about", nil).want(t, 200, "stay in this browser") // the relative redirect was followed

	// curl knows ranges and conditions, and what a client must not get with them.
	curl := func(args ...string) string {
		t.Helper()
		args = append([]string{"-sS", "--max-time", "20", "-H", "Host: " + host}, args...)
		out, err := exec.CommandContext(t.Context(), "curl", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("curl %s: %v\n%s", args, err, out)
		}
		return string(out)
	}
	tags, saved := filepath.Join(t.TempDir(), "tags"), filepath.Join(t.TempDir(), "app.js")
	curl("--etag-save", tags, "-o", saved, n.at.Functions+"/app.js")
	if code := curl("--etag-compare", tags, "-o", saved, "-w", "%{http_code}", n.at.Functions+"/app.js"); code != "304" {
		t.Errorf("what curl has already: %s", code)
	}
	if err := os.Truncate(saved, 100); err != nil {
		t.Fatal(err)
	}
	if code := curl("-C", "-", "-o", saved, "-w", "%{http_code}", n.at.Functions+"/app.js"); code != "206" {
		t.Errorf("the rest of a download: %s", code)
	}
	if raw, err := os.ReadFile(saved); err != nil || string(raw) != site["public/app.js"] {
		t.Errorf("the download was not resumed: %d bytes, %v", len(raw), err)
	}
	if head := curl("-I", "--http2-prior-knowledge", n.at.Functions+"/app.js"); !strings.Contains(strings.ToLower(head), "accept-ranges: bytes") {
		t.Error(head)
	}
	r := n.record(home.header.Get("Lambent-Invocation"))
	if r.Status != http.StatusOK || r.BytesOut == 0 || r.Error != nil {
		t.Errorf("record %+v", r)
	}
	if _, err := n.tryDeploy("none", site, lambent.Settings{Runtime: "static", Handler: "dist"}); !lambent.HasCode(err, lambent.CodeStartFailed) {
		t.Errorf("a folder that is not there: %v", err)
	}
}
