package cli

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"lambent"
	"lambent/client"
	"lambent/internal/bundle"
)

// settingFlags are the settings that have a flag of their own; --set takes any.
var settingFlags = []struct{ flag, field, usage string }{
	{"runtime", "runtime", "what runs it: python or nodejs (the latest), python3.N, nodejsNN, go, wasm, http or exec; found out when absent"},
	{"handler", "handler", "module.function (python), module.export (nodejs) or path of the executable (go) or module (wasm)"},
	{"memory", "memory", "MiB"},
	{"cpu", "cpu", "thousandths of a core"},
	{"timeout", "timeouts.total", "from acceptance to the last byte, such as 30s"},
}

func (a *app) deploy() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "deploy DIR|ARCHIVE|MODULE",
		Short: "Deploy a directory, a tar, tar.gz or zip archive, or a .wasm file",
		Long: "Deploy a directory, a tar, tar.gz or zip archive, or a WebAssembly module (a .wasm file) as a function.\n\n" +
			"A directory may hold a " + manifestName + " with the function's name and settings; flags overrule it. The platform\n" +
			"installs what a lock file names, and compiles Go, TypeScript and WebAssembly. The new revision serves as soon as it is ready;\n" +
			"until then, and if it fails, the one before does.",
		Args: arg("directory, archive or module"),
	}
	o := a.overrides(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		m, err := a.manifestFor(cmd, args[0], o)
		if err != nil {
			return err
		}
		d, err := a.push(cmd, args[0], m, o.noBuild)
		if err != nil {
			return err
		}
		return a.printDeployment(cmd.OutOrStdout(), d)
	}
	return a.inNamespace(cmd)
}

// overrides are what the command line says beside the flags of single settings.
type overrides struct {
	name      string
	env, sets []string
	noBuild   bool
}

// overrides gives cmd the flags that overrule a manifest.
func (a *app) overrides(cmd *cobra.Command) *overrides {
	o := &overrides{}
	flags := cmd.Flags()
	flags.StringVar(&o.name, "name", "", "name of the function; the directory's when absent")
	for _, s := range settingFlags {
		flags.String(s.flag, "", s.usage)
	}
	flags.StringArrayVarP(&o.env, "env", "e", nil, "`NAME=VALUE` of the environment; may be given again")
	flags.StringArrayVar(&o.sets, "set", nil, "any other setting as `FIELD=VALUE`, such as timeouts.idle=1m; may be given again")
	flags.BoolVar(&o.noBuild, "no-build", false, "deploy the files as they are: they are the code already")
	return o
}

// manifestFor is what source says of itself, overruled by the flags, complete but for defaults.
func (a *app) manifestFor(cmd *cobra.Command, source string, o *overrides) (*manifest, error) {
	info, err := os.Stat(source)
	if err != nil {
		return nil, lambent.Errorf(lambent.CodeInvalidRequest, "%w", err).WithHint("name a directory, an archive or a module")
	}
	m := &manifest{}
	if info.IsDir() {
		if m, err = readManifest(source); err != nil {
			return nil, err
		}
	}
	for _, s := range settingFlags {
		if f := cmd.Flags().Lookup(s.flag); f.Changed {
			if err := m.set(strings.Split(s.field, "."), f.Value.String()); err != nil {
				return nil, usagef("--%s: %w", s.flag, err)
			}
		}
	}
	for _, e := range o.env {
		name, value, ok := strings.Cut(e, "=")
		if !ok {
			return nil, usagef("--env: %q is not of the form NAME=VALUE", e)
		}
		if err := m.set([]string{"env", name}, value); err != nil {
			return nil, usagef("--env: %w", err)
		}
	}
	for _, s := range o.sets {
		field, value, ok := strings.Cut(s, "=")
		if !ok {
			return nil, usagef("--set: %q is not of the form FIELD=VALUE", s)
		}
		if err := m.set(strings.Split(field, "."), value); err != nil {
			return nil, usagef("--set: %w", err)
		}
	}
	if cmd.Flags().Changed("namespace") || m.Namespace == "" {
		m.Namespace = a.namespace
	}
	if o.name != "" {
		m.Name = o.name
	}
	if m.Name == "" {
		if m.Name, err = nameOf(source, info.IsDir()); err != nil {
			return nil, err
		}
	}
	if m.Runtime == "" {
		m.Runtime, err = detectRuntime(source, info.IsDir())
	}
	if m.Runtime == "" && err == nil {
		err = usagef("say what runs the archive: --runtime python, --runtime nodejs, --runtime go or --runtime wasm")
	}
	return m, err
}

// nameOf is the function name that a path suggests.
func nameOf(path string, dir bool) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	name := filepath.Base(abs)
	if !dir {
		for _, ext := range []string{".tar.gz", ".tgz", ".tar", ".zip", moduleExt} {
			name = strings.TrimSuffix(name, ext)
		}
	}
	if err := lambent.CheckName("function", name); err != nil {
		return "", lambent.ErrorOf(err).WithHint("give it another: --name NAME")
	}
	return name, nil
}

// push makes the bundle, uploads it, has it built unless noBuild, and deploys it.
func (a *app) push(cmd *cobra.Command, source string, m *manifest, noBuild bool) (*client.Deployment, error) {
	c, err := connect()
	if err != nil {
		return nil, err
	}
	d, err := a.code(cmd, c, source, m, noBuild)
	if err != nil {
		return nil, err
	}
	return c.Deploy(cmd.Context(), d)
}

// code is push without the deploy, which it gives.
func (a *app) code(cmd *cobra.Command, c *client.Client, source string, m *manifest, noBuild bool) (d client.Deploy, err error) {
	ctx := cmd.Context()
	archive, err := open(source, noBuild)
	if err != nil {
		return d, err
	}
	defer archive.Close()
	bar := newProgress(cmd.ErrOrStderr(), "uploading")
	b, err := c.Upload(ctx, archive, bar.show)
	bar.clear()
	if err != nil {
		return d, err
	}
	d = client.Deploy{Namespace: m.Namespace, Name: m.Name, Settings: m.Settings, Code: b.Digest}
	if noBuild {
		return d, nil
	}
	built, err := c.Build(ctx, m.Namespace, lambent.Build{Runtime: m.Runtime, Handler: m.Handler, Source: b.Digest},
		func(line string) { a.sayBuilding(cmd.ErrOrStderr(), line) })
	if err != nil {
		return d, a.notBuilt(err)
	}
	d.Code, d.Source = built.Code, b.Digest
	return d, nil
}

// sayBuilding shows what a tool writes. With --json it is in the trace of an error only.
func (a *app) sayBuilding(w io.Writer, line string) {
	if a.json {
		return
	}
	if isTerminal(w) {
		line = printable(line)
	}
	fmt.Fprintln(w, line)
}

// printable is a line without what a terminal would obey: a package's script may have written it.
func printable(line string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\t' {
			return -1
		}
		return r
	}, line)
}

// notBuilt is a failed build's error, without the lines that were shown as they came.
func (a *app) notBuilt(err error) error {
	e := *lambent.ErrorOf(err)
	if !a.json {
		e.Trace = ""
	}
	if e.Hint == "" {
		e.Hint = "nothing was deployed: what served before goes on"
	}
	return &e
}

// installed are what the tools of people leave in a source, which a build makes anew.
var installed = map[string]string{"package-lock.json": "/node_modules/", "uv.lock": "/.venv/", "poetry.lock": "/.venv/", "requirements.txt": "/.venv/"}

// open opens the archive to upload: source itself, or one made of it that is gone once closed.
func open(source string, noBuild bool) (*os.File, error) {
	info, err := os.Stat(source)
	switch {
	case err == nil && !info.IsDir() && strings.HasSuffix(source, moduleExt):
		return temporary(func(w io.Writer) error { return packModule(w, source) })
	case err != nil || !info.IsDir():
		return os.Open(source)
	}
	var skip []string
	for lock, made := range installed {
		if _, err := os.Stat(filepath.Join(source, lock)); err == nil && !noBuild {
			skip = append(skip, made)
		}
	}
	return temporary(func(w io.Writer) error { return pack(w, source, skip) })
}

// temporary gives a file with what write writes, which is gone once it is closed.
func temporary(write func(io.Writer) error) (*os.File, error) {
	f, err := os.CreateTemp("", "lambent-bundle-")
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.Remove(f.Name()), write(f)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// moduleExt is what the name of a WebAssembly module ends in.
const moduleExt = ".wasm"

// packModule makes an archive of one module, under the name that is looked for.
func packModule(w io.Writer, source string) error {
	module, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	rt, _ := lambent.RuntimeOf("wasm")
	archive := tar.NewWriter(w)
	if err := archive.WriteHeader(&tar.Header{Name: rt.Handler, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(module))}); err != nil {
		return err
	}
	if _, err := archive.Write(module); err != nil {
		return err
	}
	return archive.Close()
}

// pack refuses by the platform's own limits, so that what is too large is not sent first.
func pack(w io.Writer, dir string, skip []string) error {
	err := bundle.Pack(w, dir, bundle.Default, skip...)
	var bad *bundle.Error
	if !errors.As(err, &bad) {
		return err
	}
	code := lambent.CodeBundleInvalid
	if bad.TooLarge {
		code = lambent.CodeBundleTooLarge
	}
	e := lambent.Errorf(code, "%s: %w", dir, bad)
	e.Hint = bad.Hint
	return e
}

func (a *app) printDeployment(w io.Writer, d *client.Deployment) error {
	if a.json {
		printJSON(w, d)
		return nil
	}
	f := d.Function
	switch {
	case d.Unchanged:
		fmt.Fprintf(w, "%s/%s is at revision %s already\n", f.Namespace, f.Name, f.Latest.ID)
	default:
		fmt.Fprintf(w, "%s/%s is at revision %s, ready in %s\n", f.Namespace, f.Name, f.Latest.ID, short(d.Phases.Total()))
	}
	if f.Isolation != nil && f.Isolation.Level == lambent.IsolationNone {
		fmt.Fprintf(w, "warning: it runs without a sandbox; its isolation is %s\n", f.Isolation)
	}
	_, err := fmt.Fprintln(w, d.URL)
	return err
}

// short is d to four digits or so: people read it.
func short(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < time.Second:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}
