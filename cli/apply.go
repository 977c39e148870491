package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"lambent"
	"lambent/client"
	"lambent/internal/nearest"
)

// resource is what one document of a file wants to be there.
type resource interface {
	// name is how it is told from others, such as "route default/users".
	name() string
	// apply makes it so and tells whether it was not; with dry it tells only.
	apply(ctx context.Context, a *applying) (changed bool, err error)
}

// kinds are the resources that files may describe, in the order in which they need each other.
var kinds = []string{"function", "alias", "route"}

type functionDocument struct {
	Kind string `json:"kind"`
	Code string `json:"code"`
	manifest
}

type aliasDocument struct {
	Kind      string           `json:"kind"`
	Namespace string           `json:"namespace"`
	Function  string           `json:"function"`
	Name      string           `json:"name"`
	Targets   []targetDocument `json:"targets"`
	Sticky    string           `json:"sticky"`
}

type targetDocument struct {
	Revision string `json:"revision"`
	Alias    string `json:"alias"`
	Weight   int    `json:"weight"`
}

type routeDocument struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	lambent.RouteSpec
}

func (f *functionDocument) name() string { return "function " + f.Namespace + "/" + f.Name }
func (d *aliasDocument) name() string {
	return "alias " + d.Namespace + "/" + d.Function + ":" + d.Name
}
func (r *routeDocument) name() string { return "route " + r.Namespace + "/" + r.Name }

// applying is one run of apply.
type applying struct {
	*app
	cmd     *cobra.Command
	client  *client.Client
	dry     bool
	pending map[string]bool // names of what a dry run would make
}

func (a *app) apply() *cobra.Command {
	var files []string
	var dry bool
	cmd := &cobra.Command{
		Use:   "apply -f FILE|DIR|-",
		Short: "Make functions, aliases and routes be as YAML files say",
		Long: "Make functions, aliases and routes be as YAML files say; what is so already stays as it is, and nothing is removed.\n\n" +
			"Each document has a kind: function, alias or route. A function's code is a directory, archive or module, relative to its file, whose own\n" +
			manifestName + " counts where the document says nothing. Functions come first, then aliases, then routes.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(files) == 0 {
				return usagef("say which: -f FILE is missing")
			}
			resources, err := a.resources(files, cmd.InOrStdin())
			if err != nil {
				return err
			}
			c, err := connect()
			if err != nil {
				return err
			}
			return (&applying{a, cmd, c, dry, map[string]bool{}}).run(resources)
		},
	}
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "file, directory of .yaml and .yml files, or - for standard input; may be given again")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only tell what would change; code is uploaded, and built, to compare it")
	return a.inNamespace(cmd)
}

// resources reads files and gives what they describe, in the order to apply it in. It says all that is wrong with them
// before anything is done.
func (a *app) resources(files []string, stdin io.Reader) ([]resource, error) {
	var docs []document
	for _, path := range files {
		more, err := documents(path, stdin)
		if err != nil {
			return nil, err
		}
		docs = append(docs, more...)
	}
	byKind := map[string][]resource{}
	seen := map[string]bool{}
	for _, d := range docs {
		kind, r, err := a.resource(d)
		if err != nil {
			return nil, err
		}
		if seen[r.name()] {
			return nil, d.at(d.body, fmt.Errorf("%s is there twice", r.name()))
		}
		seen[r.name()] = true
		byKind[kind] = append(byKind[kind], r)
	}
	var all []resource
	for _, kind := range kinds {
		all = append(all, byKind[kind]...)
	}
	return all, nil
}

// documents reads a file, the files of a directory, or standard input.
func documents(path string, stdin io.Reader) (docs []document, err error) {
	if path == "-" {
		raw, err := io.ReadAll(stdin)
		if err != nil {
			return nil, err
		}
		return parseYAML("-", raw)
	}
	paths := []string{path}
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		paths = nil
		var entries []os.DirEntry
		entries, err = os.ReadDir(path)
		for _, e := range entries {
			if ext := filepath.Ext(e.Name()); ext == ".yaml" || ext == ".yml" {
				paths = append(paths, filepath.Join(path, e.Name()))
			}
		}
	}
	for _, p := range paths {
		if err != nil {
			break
		}
		var raw []byte
		if raw, err = os.ReadFile(p); err == nil {
			more, broken := parseYAML(p, raw)
			if broken != nil {
				return nil, broken
			}
			docs = append(docs, more...)
		}
	}
	if err != nil {
		return nil, lambent.Errorf(lambent.CodeInvalidRequest, "%w", err).WithHint("name a file, a directory, or - for standard input")
	}
	return docs, nil
}

// resource reads a document.
func (a *app) resource(d document) (kind string, r resource, err error) {
	kind, node := d.field("kind")
	switch kind {
	case "function":
		r, err = a.function(d)
	case "alias":
		alias := &aliasDocument{Namespace: a.namespace}
		r, err = alias, d.read(alias)
		if err == nil {
			err = alias.check(d)
		}
	case "route":
		route := &routeDocument{Namespace: a.namespace}
		r, err = route, d.read(route)
		if err == nil {
			if route.RouteSpec, err = route.Complete(); err != nil {
				err = d.at(d.body, err)
			}
		}
	case "secret", "key":
		e := lambent.Errorf(lambent.CodeInvalidRequest, "kind: a %s does not belong in a file", kind)
		if kind == "secret" {
			_ = e.WithHint("functions name secrets, their values come by: lambent secret set NAME")
		}
		err = d.at(node, e)
	case "":
		err = d.at(node, lambent.Errorf(lambent.CodeInvalidRequest, "kind is missing").WithHint("use %s", strings.Join(kinds, ", ")))
	default:
		e := lambent.Errorf(lambent.CodeInvalidRequest, "kind: %q is unknown", kind).WithHint("use %s", strings.Join(kinds, ", "))
		if near := nearest.Of(kind, kinds); near != "" {
			_ = e.WithHint("did you mean %s?", near)
		}
		err = d.at(node, e)
	}
	return kind, r, err
}

// function reads a document of a function on top of the manifest that its code may have.
func (a *app) function(d document) (*functionDocument, error) {
	f := &functionDocument{}
	if err := d.read(f); err != nil {
		return nil, err
	}
	if f.Code == "" || f.Name == "" {
		return nil, d.at(d.body, errors.New("a function has a name, and code: its directory, archive or module"))
	}
	code := f.Code
	if !filepath.IsAbs(code) {
		code = filepath.Join(filepath.Dir(d.path), code)
	}
	_, node := d.field("code")
	info, err := os.Stat(code)
	if err != nil {
		return nil, d.at(node, fmt.Errorf("code: %w", err))
	}
	f = &functionDocument{}
	if info.IsDir() {
		m, err := readManifest(code)
		if err != nil {
			return nil, err
		}
		f.manifest = *m
	}
	if err := d.read(f); err != nil {
		return nil, err
	}
	f.Code, f.Namespace = code, cmp.Or(f.Namespace, a.namespace)
	if f.Runtime == "" {
		if f.Runtime, err = detectRuntime(code, info.IsDir()); err != nil {
			return nil, d.at(d.body, err)
		}
	}
	return f, nil
}

func (d *aliasDocument) check(doc document) error {
	if d.Function == "" || d.Name == "" || len(d.Targets) == 0 {
		return doc.at(doc.body, errors.New("an alias has a function, a name and targets"))
	}
	for i := range d.Targets {
		t := &d.Targets[i]
		if (t.Revision == "") == (t.Alias == "") {
			return doc.at(doc.body, fmt.Errorf("targets[%d]: it has either a revision or an alias", i))
		}
		t.Weight = cmp.Or(t.Weight, 1)
	}
	return nil
}

// run applies the resources, one after the other, up to the first that fails, and tells what became of each.
func (a *applying) run(resources []resource) error {
	type result struct {
		Resource string `json:"resource"`
		Result   string `json:"result"`
	}
	results := []result{}
	report := func(r resource, what string) {
		results = append(results, result{r.name(), what})
		if !a.json {
			fmt.Fprintf(a.cmd.OutOrStdout(), "%s %s\n", r.name(), what)
		}
	}
	var failed error
	for _, r := range resources {
		if failed != nil {
			report(r, "not applied")
			continue
		}
		changed, err := r.apply(a.cmd.Context(), a)
		switch {
		case err != nil:
			report(r, "failed")
			e := *lambent.ErrorOf(err)
			e.Message = r.name() + ": " + e.Message
			failed = &e
		case !changed:
			report(r, "unchanged")
		case a.dry:
			a.pending[r.name()] = true
			report(r, "would change")
		default:
			report(r, "changed")
		}
	}
	if a.json {
		printJSON(a.cmd.OutOrStdout(), map[string]any{"resources": results})
	}
	return failed
}

func (f *functionDocument) apply(ctx context.Context, a *applying) (bool, error) {
	if !a.dry {
		d, err := a.push(a.cmd, f.Code, &f.manifest, false)
		return err == nil && !d.Unchanged, err
	}
	d, err := a.code(a.cmd, a.client, f.Code, &f.manifest, false)
	if err != nil {
		return false, err
	}
	there, err := a.client.Function(ctx, f.Namespace, f.Name)
	if err != nil && !lambent.HasCode(err, lambent.CodeFunctionNotFound) {
		return false, err
	}
	settings := f.Settings
	if there != nil && there.Latest != nil && strings.TrimRight(there.Latest.Settings.Runtime, "0123456789.") == settings.Runtime {
		settings.Runtime = there.Latest.Settings.Runtime // python is the latest of them
	}
	if settings.Runtime == "python" || settings.Runtime == "nodejs" {
		return true, nil
	}
	if settings, err = settings.Complete(); err != nil {
		return false, err
	}
	return there.Latest == nil || there.Latest.Code != d.Code || !reflect.DeepEqual(there.Latest.Settings, settings), nil
}

func (d *aliasDocument) apply(ctx context.Context, a *applying) (bool, error) {
	set := client.SetAlias{Namespace: d.Namespace, Function: d.Function, Name: d.Name, Sticky: d.Sticky}
	for _, t := range d.Targets {
		set.Targets = append(set.Targets, lambent.Weight{Revision: cmp.Or(t.Revision, t.Alias), Weight: t.Weight})
	}
	if err := lambent.CheckAlias(d.Name); err != nil {
		return false, err
	}
	if a.dry && a.pending["function "+d.Namespace+"/"+d.Function] {
		return true, nil // what its targets will be is not known yet
	}
	var version uint64
	before, err := a.client.Alias(ctx, d.Namespace, d.Function, d.Name)
	if err == nil {
		version = before.Version
	} else if !lambent.HasCode(err, lambent.CodeNotFound) {
		return false, err
	}
	if !a.dry {
		after, err := a.client.SetAlias(ctx, set)
		return err == nil && after.Version != version, err
	}
	if version == 0 {
		return true, nil
	}
	for i := range set.Targets {
		w := &set.Targets[i]
		if lambent.IsRevisionID(w.Revision) {
			continue
		}
		to := &aliasDocument{Namespace: d.Namespace, Function: d.Function, Name: w.Revision}
		if a.pending[to.name()] {
			return true, nil // nor is what that one will be
		}
		now, err := a.client.Alias(ctx, d.Namespace, d.Function, w.Revision)
		if err != nil {
			return false, err
		}
		if len(now.Targets) > 1 {
			return false, lambent.Errorf(lambent.CodeInvalidRequest, "targets[%d]: alias %s has several revisions", i, w.Revision).
				WithHint("name one of them: lambent alias ls %s", d.Function)
		}
		w.Revision = now.Targets[0].Revision.ID
	}
	return before.Sticky != d.Sticky || !slices.Equal(before.Weights(), set.Targets), nil
}

func (r *routeDocument) apply(ctx context.Context, a *applying) (bool, error) {
	before, err := a.client.Route(ctx, r.Namespace, r.Name)
	if lambent.HasCode(err, lambent.CodeNotFound) {
		before, err = &lambent.Route{}, nil
	}
	if err != nil || a.dry {
		return err == nil && !reflect.DeepEqual(before.RouteSpec, r.RouteSpec), err
	}
	after, err := a.client.SetRoute(ctx, client.SetRoute{Namespace: r.Namespace, Name: r.Name, Spec: r.RouteSpec})
	return err == nil && after.Version != before.Version, err
}
