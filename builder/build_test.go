package builder_test

import (
	"context"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"go.uber.org/goleak"

	"lambent"
	"lambent/builder"
	"lambent/builder/buildertest"
	"lambent/internal/bundle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scripted runs what the source says: the layer.sh of a source makes the layer, its build.sh the rest.
type scripted struct{ ship bool }

func (scripted) Findings() []lambent.Finding { return nil }

func (s scripted) Plan(src builder.Source) (*builder.Plan, error) {
	p := &builder.Plan{Ship: s.ship, Drop: func(path string) bool { return strings.HasSuffix(path, ".sh") || path == "made" }}
	layer, ok, err := src.Read("layer.sh")
	if err != nil {
		return nil, err
	}
	if ok {
		p.Layer = &builder.Step{Key: layer, Files: []string{"layer.sh"}, Script: layer}
	}
	build, ok, err := src.Read("build.sh")
	if err != nil {
		return nil, err
	}
	if ok {
		p.Build = &builder.Step{Key: src.Digest, Script: build, Args: []string{src.Handler}}
	}
	if p.Layer == nil && p.Build == nil {
		return nil, nil
	}
	return p, nil
}

func newWorld(t *testing.T, o builder.Options) *buildertest.World {
	if o.Builders == nil {
		o.Builders = map[string]builder.Builder{"sh": scripted{}, "packed": scripted{ship: true}}
	}
	return buildertest.New(t, o)
}

func TestBuild(t *testing.T) {
	w := newWorld(t, builder.Options{Env: map[string]string{"REGISTRY": "there"}})
	source := map[string]string{
		"main.txt": "mine", "made": "old",
		"layer.sh": `mkdir -p out/lib; echo $REGISTRY >out/lib/a; ln -s a out/lib/b; echo layer says; ls /var/task >out/lib/saw`,
		"build.sh": `cat /var/layer/lib/b /var/task/main.txt >out/made; chmod +x out/made; echo "$1" >>out/made`,
	}
	var logs []string
	built := w.Build(t, "default", "sh", source, func(line string) { logs = append(logs, line) })
	if built.Cached || built.Layer == "" || !slices.Equal(logs, []string{"layer says"}) {
		t.Errorf("%+v, %v", built, logs)
	}
	got := w.Files(t, built.Code)
	if want := map[string]string{"main.txt": "mine", "made": "there\nmineindex.handler\n"}; !maps.Equal(got, want) {
		t.Errorf("%v", got)
	}
	again := w.Build(t, "default", "sh", source, nil)
	if !again.Cached || again.Code != built.Code {
		t.Errorf("again: %+v", again)
	}
	source["main.txt"] = "changed"
	changed := w.Build(t, "default", "sh", source, nil)
	if changed.Cached || changed.Layer != built.Layer || changed.Code == built.Code {
		t.Errorf("changed: %+v", changed)
	}
	shipped := w.Build(t, "default", "packed", source, nil)
	if saw := w.Files(t, shipped.Code)["lib/saw"]; saw != "layer.sh\n" {
		t.Errorf("the layer's step saw %q", saw)
	}
	fresh := newWorld(t, builder.Options{Env: map[string]string{"REGISTRY": "there"}}).Build(t, "default", "sh", source, nil)
	if fresh.Cached || fresh.Code != changed.Code {
		t.Errorf("without layers: %+v, want %s", fresh, changed.Code)
	}
	plain := w.Build(t, "default", "sh", map[string]string{"main.txt": "mine"}, nil)
	if !plain.Cached || plain.Code != w.Put(t, map[string]string{"main.txt": "mine"}) {
		t.Errorf("nothing to build: %+v", plain)
	}
	empty := w.Build(t, "default", "packed", map[string]string{"x": "", "layer.sh": "mkdir out/empty"}, nil)
	if got := w.Files(t, empty.Code); !maps.Equal(got, map[string]string{"x": ""}) {
		t.Errorf("an empty layer: %v", got)
	}
}

func TestFailures(t *testing.T) {
	w := newWorld(t, builder.Options{Timeout: 3 * time.Second, Memory: 64, Pids: 32, Limits: bundle.Limits{Bytes: 1 << 20, Entries: 100}})
	for _, tt := range []struct {
		name, script string
		code         lambent.Code
		want         string
	}{
		{"tool fails", `echo "no such package: leftpad"; exit 7`, lambent.CodeBuildFailed, "exited with code 7"},
		{"tool does not end", `setsid sleep 1000 & sleep 1000`, lambent.CodeBuildLimit, "did not end within 3s"},
		{"fork bomb", `b() { b | b & b; }; b`, "", ""},
		{"too much memory", `tail /dev/zero`, lambent.CodeBuildLimit, "memory limit of 64 MiB"},
		{"disk is memory", `head -c 200000000 /dev/zero >big`, "", ""},
		{"huge output", `head -c 2000000 /dev/zero >out/big`, lambent.CodeBuildLimit, "too large"},
		{"endless output", `exec cat /dev/zero >&3`, lambent.CodeBuildFailed, "cannot be used"},
		{"many files", `i=0; while [ $i -lt 200 ]; do : >out/$i; i=$((i+1)); done`, lambent.CodeBuildLimit, "entries"},
		{"link out", `ln -s /etc/passwd out/x`, lambent.CodeBuildFailed, "absolute path"},
		{"link up", `ln -s ../../x out/x`, lambent.CodeBuildFailed, "outside of the bundle"},
		{"pipe", `mkfifo out/x`, lambent.CodeBuildFailed, "a pipe"},
		{"traversal", `: >../tmp/e; tar -c -P --transform=s,e,../../e, -C /tmp e >&3; kill -9 $PPID`, lambent.CodeBuildFailed, ""},
		{"no archive", `echo hello >&3; rm -rf out; mkdir out; exec >&- 3>&-; kill -9 $PPID`, lambent.CodeBuildFailed, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			source := w.Put(t, map[string]string{"build.sh": tt.script})
			_, err := w.Service.Build(t.Context(), "default", lambent.Build{Runtime: "sh", Handler: "index.handler", Source: source}, func(string) {})
			e := lambent.ErrorOf(err)
			if e == nil || e.Code != lambent.CodeBuildFailed && e.Code != lambent.CodeBuildLimit {
				t.Fatalf("got %v", err)
			}
			if tt.code != "" && e.Code != tt.code || !strings.Contains(e.Message, tt.want) {
				t.Errorf("got %v", err)
			}
			if tt.name == "tool fails" && e.Trace != "no such package: leftpad" {
				t.Errorf("trace %q", e.Trace)
			}
		})
	}
	if _, err := os.Stat(filepath.Join(w.Dir, "e")); err == nil {
		t.Error("something got out")
	}
	ok := w.Build(t, "default", "sh", map[string]string{"build.sh": "echo fine >out/made"}, nil)
	if got := w.Files(t, ok.Code)["made"]; got != "fine\n" {
		t.Errorf("afterwards: %q", got)
	}
}

// TestHostile is what a package's install script could try.
func TestHostile(t *testing.T) {
	w := newWorld(t, builder.Options{})
	secret := filepath.Join(w.Dir, "admin.key")
	if err := os.WriteFile(secret, []byte("lk_secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("LAMBENT_TEST_SECRET", "lk_secret")
	victim := map[string]string{"main": "x", "layer.sh": `echo good >out/lib`, "build.sh": `cat /var/layer/lib >out/made`}
	w.Build(t, "victim", "sh", victim, nil)
	for _, tt := range []struct{ name, script string }{
		{"read files of the daemon", `cat ` + secret + ` || ls ` + w.Dir + ` || cat /proc/1/environ || ls /root /home /srv /run`},
		{"read the daemon's environment", `tr '\0' '\n' </proc/self/environ | grep lk_secret`},
		{"see other processes", `ls /proc | grep -E '^[0-9]+$' | grep -vx $$ | while read p; do cat /proc/$p/cmdline 2>/dev/null; done | tr '\0' ' ' | grep -E 'go|test|lambent-init' | grep -v script`},
		{"find layers of another namespace", `find / -name ns-victim 2>/dev/null | grep . || find / -xdev -name lib -path '*trees*' 2>/dev/null | grep .`},
		{"write outside", `for d in /var/task /var /usr /usr/local/lib /etc / /proc/sys/kernel /sys /var/layer; do (echo x >$d/evil) 2>/dev/null && echo wrote $d; done; false`},
		{"make devices", `mknod /work/d b 254 0`},
		{"mount", `mount -t tmpfs x /work || unshare -r true`},
		{"be root", `[ "$(id -u)" = 0 ] || chown 0 /work || chmod u+s /bin/sh`},
		{"reach the loopback of the host", `exec 3<>/dev/null; /usr/bin/python3 -c 'import socket,sys; socket.create_connection(("127.0.0.1", int(sys.argv[1])), 2)' ` + w.Port(t)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			source := map[string]string{"main": tt.name, "build.sh": "(" + tt.script + ") && echo DONE\n echo x >out/made"}
			var logs []string
			w.Build(t, "attacker", "sh", source, func(line string) { logs = append(logs, line) })
			if text := strings.Join(logs, "\n"); strings.Contains(text, "DONE") || strings.Contains(text, "lk_secret") || strings.Contains(text, "wrote") {
				t.Errorf("it worked: %s", text)
			}
		})
	}
	t.Run("poison a layer of another namespace", func(t *testing.T) {
		// The same key, made in another namespace, and a change of what is found.
		poison := maps.Clone(victim)
		poison["build.sh"] = `echo evil >/var/layer/lib || chmod 777 /var/layer || rm -rf /var/layer/lib || echo evil >out/made`
		w.Build(t, "attacker", "sh", poison, nil)
		victim["main"] = "another"
		if built := w.Build(t, "victim", "sh", victim, nil); w.Files(t, built.Code)["made"] != "good\n" {
			t.Errorf("%v", w.Files(t, built.Code))
		}
	})
}

func TestDeniedEgress(t *testing.T) {
	w := newWorld(t, builder.Options{Egress: []string{"*:443"}})
	var mu sync.Mutex
	var said []string
	w.Build(t, "default", "sh", map[string]string{"build.sh": `/usr/bin/python3 -c 'import urllib.request; urllib.request.urlopen("http://registry.test:22")' 2>/dev/null || echo x >out/x`},
		func(line string) {
			mu.Lock()
			defer mu.Unlock()
			said = append(said, line)
		})
	mu.Lock()
	defer mu.Unlock()
	if len(said) != 1 || !strings.Contains(said[0], "may not connect to registry.test:22") || !strings.Contains(said[0], "--build-egress") {
		t.Errorf("the build was told %q", said)
	}
}

func TestLayersAreNotShared(t *testing.T) {
	w := newWorld(t, builder.Options{})
	source := map[string]string{"main": "x", "layer.sh": `echo ran; echo x >out/x`}
	for _, ns := range []string{"one", "two", "tmp"} {
		var ran []string
		w.Build(t, ns, "packed", source, func(line string) { ran = append(ran, line) })
		if len(ran) != 1 {
			t.Errorf("%s has found the layer of another", ns)
		}
	}
}

func TestCancel(t *testing.T) {
	w := newWorld(t, builder.Options{Parallel: 1})
	ctx, cancel := context.WithCancel(t.Context())
	started := make(chan struct{})
	var first sync.WaitGroup
	first.Go(func() {
		source := w.Put(t, map[string]string{"build.sh": `echo started; sleep 1000`})
		_, err := w.Service.Build(ctx, "default", lambent.Build{Runtime: "sh", Source: source}, func(string) { close(started) })
		if !lambent.HasCode(lambent.ErrorOf(err), lambent.CodeClientClosed) {
			t.Errorf("got %v", err)
		}
	})
	<-started
	waits := make(chan struct{})
	second, leave := context.WithCancel(t.Context())
	var other sync.WaitGroup
	other.Go(func() {
		source := w.Put(t, map[string]string{"build.sh": `true`})
		_, err := w.Service.Build(second, "default", lambent.Build{Runtime: "sh", Source: source}, func(string) { close(waits) })
		if !lambent.HasCode(lambent.ErrorOf(err), lambent.CodeClientClosed) {
			t.Errorf("got %v", err)
		}
	})
	<-waits
	leave()
	other.Wait()
	cancel()
	first.Wait()
	w.Build(t, "default", "sh", map[string]string{"build.sh": `echo x >out/x`}, nil)
}

func TestEviction(t *testing.T) {
	dir := t.TempDir()
	w := newWorld(t, builder.Options{Dir: dir, Layers: 5 << 20})
	build := func(name string) bool {
		return w.Build(t, "default", "packed", map[string]string{"main": "x", "layer.sh": "head -c 2000000 /dev/zero >out/" + name}, nil).Cached
	}
	for _, step := range []struct {
		name   string
		cached bool
	}{{"a", false}, {"b", false}, {"a", true}, {"c", false}, {"a", true}, {"b", false}, {"c", false}} {
		if cached := build(step.name); cached != step.cached {
			t.Errorf("%s: cached %v", step.name, cached)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "tmp", "left"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.Restart(t)
	if !build("c") {
		t.Error("a layer did not survive a restart")
	}
	if left, err := os.ReadDir(filepath.Join(dir, "tmp")); err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

func TestSourceLeadsNowhere(t *testing.T) {
	root := fstest.MapFS{"dir/x": {}, "big": {Data: make([]byte, 33<<20)}, "link": {Mode: fs.ModeSymlink, Data: []byte("/etc/passwd")}}
	src := builder.Source{FS: root}
	if _, ok, err := src.Read("dir"); ok || err != nil {
		t.Errorf("a folder: %v, %v", ok, err)
	}
	if _, _, err := src.Read("big"); !lambent.HasCode(err, lambent.CodeBuildFailed) {
		t.Errorf("a huge file: %v", err)
	}
	if _, ok, err := src.Read("none"); ok || err != nil {
		t.Errorf("no file: %v, %v", ok, err)
	}
}
