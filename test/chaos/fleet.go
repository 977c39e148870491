package main

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"lambent"
	"lambent/client"
)

// fleet is the functions that are called: see functions/.
type fleet struct {
	client *client.Client
	codes  map[string]string // digests of their bundles, by the folder below functions/
}

// member is a function of the fleet.
type member struct {
	name, code string
	settings   lambent.Settings
}

var members = []member{
	{"handler", "python", lambent.Settings{Runtime: "python", Handler: "main.handler", Concurrency: 1, Memory: 64}},
	{"server", "server", lambent.Settings{Runtime: "go", Handler: "server", Concurrency: 20, Memory: 64}},
	{"stream", "server", lambent.Settings{Runtime: "go", Handler: "server", Concurrency: 20, Memory: 64}},
	{"upload", "server", lambent.Settings{Runtime: "go", Handler: "server", Concurrency: 20, Memory: 64}},
	{"fetch", "node", lambent.Settings{Runtime: "nodejs20", Handler: "index.default", Concurrency: 20, Memory: 128}},
	{"socket", "server", lambent.Settings{Runtime: "go", Handler: "server", Concurrency: 20, Memory: 64,
		Timeouts: lambent.Timeouts{Drain: lambent.Duration(2 * time.Second)}}},
}

// newFleet builds and uploads what the functions need.
func newFleet(ctx context.Context, c *client.Client, dir string) (*fleet, error) {
	binary, err := buildServer(ctx, dir)
	if err != nil {
		return nil, err
	}
	f := &fleet{c, map[string]string{}}
	for code, file := range map[string]string{
		"server": binary, "python": "test/chaos/functions/python/main.py", "node": "test/chaos/functions/node/index.mjs",
	} {
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		archive, err := bundle(filepath.Base(file), raw, "0")
		if err != nil {
			return nil, err
		}
		uploaded, err := c.Upload(ctx, bytes.NewReader(archive), nil)
		if err != nil {
			return nil, err
		}
		f.codes[code] = uploaded.Digest
	}
	return f, nil
}

func buildServer(ctx context.Context, dir string) (binary string, err error) {
	binary = filepath.Join(dir, "server")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, "./test/chaos/functions/server")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return binary, nil
}

// bundle is an archive of one file, and of a name that makes it one of its own.
func bundle(name string, content []byte, variant string) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))}); err != nil {
		return nil, err
	}
	if _, err := w.Write(content); err != nil {
		return nil, err
	}
	if err := w.WriteHeader(&tar.Header{Name: "variant-" + variant, Mode: 0o644}); err != nil {
		return nil, err
	}
	err := w.Close()
	return out.Bytes(), err
}

// deploy makes a new revision of m.
func (f *fleet) deploy(ctx context.Context, m member, version int) error {
	s := m.settings
	s.Env = map[string]string{"JOURNAL": "yes", "VERSION": strconv.Itoa(version)}
	_, err := f.client.Deploy(ctx, client.Deploy{Namespace: lambent.DefaultNamespace, Name: m.name, Settings: s, Code: f.codes[m.code]})
	if err != nil {
		return fmt.Errorf("deploy %s: %w", m.name, err)
	}
	return nil
}

// prod is the alias of the function server that half of its requests go to. It points to one of two versions.
const prod = "prod"

func (f *fleet) flip(ctx context.Context, version int) error {
	_, err := f.client.SetAlias(ctx, client.SetAlias{Namespace: lambent.DefaultNamespace, Function: "server", Name: prod,
		Targets: []lambent.Weight{{Revision: strconv.Itoa(version), Weight: 1}}})
	return err
}

// deployAll deploys every function, and the two versions that prod points to.
func (f *fleet) deployAll(ctx context.Context) error {
	for _, m := range members {
		if err := f.deploy(ctx, m, 0); err != nil {
			return err
		}
	}
	server := members[1]
	for version := 1; version <= 2; version++ {
		if err := f.deploy(ctx, server, version); err != nil {
			return err
		}
		if _, err := f.client.Publish(ctx, lambent.DefaultNamespace, server.name, ""); err != nil {
			return err
		}
	}
	return f.flip(ctx, 1)
}
