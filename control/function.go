package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"lambent"
	"lambent/store"
)

const functionPath = "/v1/namespaces/{namespace}/functions/{name}"

// Named is what every operation on one function takes. Like the other embedded inputs it is exported because
// huma fills in exported fields only.
type Named struct {
	Namespace string `path:"namespace"`
	Name      string `path:"name"`
}

func (n Named) check() error {
	return errors.Join(lambent.CheckName("namespace", n.Namespace), lambent.CheckName("function", n.Name))
}

func (n Named) unknown() error {
	return lambent.Errorf(lambent.CodeFunctionNotFound, "there is no function %s in namespace %s", n.Name, n.Namespace).
		WithHint("see what there is with: lambent ls")
}

func (s *server) functionRoutes() {
	tags := []string{"functions"}
	register(s, huma.Operation{OperationID: "deploy", Security: needs(lambent.RoleDeploy), Method: http.MethodPut, Path: functionPath, Tags: tags,
		Summary:     "Deploy a function",
		Description: "Makes a revision of the settings and the code. It begins to serve when one of its instances was ready; until then, and when it fails, the one before serves.",
	}, s.deploy)
	register(s, huma.Operation{OperationID: "get-function", Security: needs(lambent.RoleDeploy), Method: http.MethodGet, Path: functionPath, Tags: tags,
		Summary: "Get a function"}, s.get)
	register(s, huma.Operation{OperationID: "delete-function", Security: needs(lambent.RoleDeploy), Method: http.MethodDelete, Path: functionPath, Tags: tags,
		Summary: "Delete a function, its revisions, aliases and logs"}, s.delete)
	register(s, huma.Operation{OperationID: "list-functions", Security: needs(lambent.RoleDeploy), Method: http.MethodGet, Path: "/v1/functions", Tags: tags,
		Summary: "List functions, in order of namespace and name"}, s.list)
	register(s, huma.Operation{OperationID: "list-revisions", Security: needs(lambent.RoleDeploy), Method: http.MethodGet, Path: functionPath + "/revisions", Tags: tags,
		Summary: "List a function's revisions, the latest made first"}, s.revisions)
	register(s, huma.Operation{OperationID: "get-revision", Security: needs(lambent.RoleDeploy), Method: http.MethodGet, Path: functionPath + "/revisions/{id}", Tags: tags,
		Summary: "Get a revision"}, s.revision)
}

// Deploy says what to deploy.
type Deploy struct {
	Settings lambent.Settings `json:"settings"`
	Code     string           `json:"code" pattern:"^sha256:[0-9a-f]{64}$" patternDescription:"a digest: sha256: and 64 hex digits" doc:"digest of the uploaded bundle"`
	Source   string           `json:"source,omitempty" pattern:"^sha256:[0-9a-f]{64}$" doc:"digest of the bundle that the code was built from"`
}

// Deployment tells what a deploy did.
type Deployment struct {
	Function  *lambent.Function `json:"function"`
	Created   bool              `json:"created" doc:"there was no such function before"`
	Unchanged bool              `json:"unchanged" doc:"this revision serves already"`
	Phases    lambent.Phases    `json:"phases_ms" doc:"how long the first instance took to start, in milliseconds"`
	URL       string            `json:"url"`
}

// Preconditions are what a write expects of the resource as it is.
type Preconditions struct {
	IfMatch     string `header:"If-Match" doc:"the resource's version, in quotes: conflict if it has another"`
	IfNoneMatch string `header:"If-None-Match" enum:"*" doc:"*: conflict if the resource exists"`
}

// allow tells whether a resource, which what names, at that version, 0 if it does not exist, is what the client
// expects.
func (p Preconditions) allow(what string, version uint64) error {
	exists := version != 0
	switch {
	case p.IfNoneMatch == "*" && exists:
		return lambent.Errorf(lambent.CodeConflict, "the %s exists already, at version %d", what, version)
	case p.IfMatch == "", p.IfMatch == "*" && exists, p.IfMatch == etag(version) && exists:
		return nil
	case !exists:
		return lambent.Errorf(lambent.CodeConflict, "the %s does not exist, so it has no version %s", what, p.IfMatch)
	}
	return lambent.Errorf(lambent.CodeConflict, "the %s is at version %d, not at %s", what, version, p.IfMatch).
		WithHint("read it again, then decide")
}

func etag(version uint64) string { return strconv.Quote(strconv.FormatUint(version, 10)) }

type deployOutput struct {
	Status int
	ETag   string `header:"ETag"`
	Body   Deployment
}

func (s *server) deploy(ctx context.Context, in *struct {
	Named
	Preconditions
	Body Deploy
}) (*deployOutput, error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	before, err := s.stored(ctx, in.Named)
	if err != nil {
		return nil, err
	}
	var version uint64
	if before != nil {
		version = before.Version
	}
	if err := in.allow("function", version); err != nil {
		return nil, err
	}
	rev, err := s.newRevision(ctx, in.Named, in.Body)
	if err != nil {
		return nil, err
	}
	out := &deployOutput{Status: http.StatusOK, Body: Deployment{Function: before, URL: s.url(in.Named)}}
	if before != nil && before.Latest.ID == rev.ID {
		out.Body.Function = s.shown(before)
		out.ETag, out.Body.Unchanged = etag(before.Version), true
		return out, nil
	}
	release, err := s.hold(rev)
	if err != nil {
		return nil, err
	}
	defer release()
	out.Body.Phases, err = s.Ready(ctx, rev)
	if err != nil {
		return nil, notReady(err, goesOn(before))
	}
	f := before
	if f == nil {
		out.Status, out.Body.Created = http.StatusCreated, true
		if err := s.removeOrphans(ctx, in.Named); err != nil {
			return nil, err
		}
		// To the nanosecond: it tells a function from one of the same name that was deleted before.
		f = &lambent.Function{Namespace: in.Namespace, Name: in.Name, Created: time.Now().UTC()}
	}
	if f, err = s.serve(ctx, f, rev); err != nil {
		return nil, err
	}
	out.Body.Function, out.ETag = s.shown(f), etag(f.Version)
	return out, nil
}

// serve makes rev the latest of f, which is at version 0 when it is new, and gives f as it is then.
func (s *server) serve(ctx context.Context, f *lambent.Function, rev *lambent.Revision) (*lambent.Function, error) {
	rev, err := s.keep(ctx, rev)
	if err != nil {
		return nil, err
	}
	next := *f
	next.Latest, next.Updated = rev, now()
	if f.Latest != nil {
		next.Previous = f.Latest.ID
	}
	key := functionKey(f.Namespace, f.Name)
	if next.Version, err = s.putNaming(ctx, key, next, f.Version, next.Alias().Targets); err != nil {
		return nil, err
	}
	if err := s.Applied(ctx, key, next.Version); err != nil {
		return nil, fmt.Errorf("revision %s is the latest, but this node does not route to it yet: %w", rev.ID, err)
	}
	s.Changed(f.Namespace, f.Name)
	s.Logger.Info("serving", "function", f.Namespace+"/"+f.Name, "revision", rev.ID, "version", next.Version)
	return &next, nil
}

func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

// newRevision makes the revision that d describes, if this node can run it.
func (s *server) newRevision(ctx context.Context, n Named, d Deploy) (*lambent.Revision, error) {
	settings := d.Settings
	runtime, err := s.member(settings.Runtime)
	if err != nil {
		return nil, at("body.settings.", err)
	}
	settings.Runtime = runtime
	if settings, err = settings.Complete(); err != nil {
		return nil, at("body.settings.", err)
	}
	if err := s.checkSecrets(ctx, n.Namespace, settings); err != nil {
		return nil, at("body.settings.", err)
	}
	if err := s.mustHave(ctx, "body.code", d.Code); err != nil {
		return nil, err
	}
	if d.Source != "" { // a diff reads it
		if err := s.mustHave(ctx, "body.source", d.Source); err != nil {
			return nil, err
		}
	}
	root, err := s.Executor.Root(settings.Runtime)
	if err != nil {
		return nil, err
	}
	if err := s.Executor.Isolation(settings.Tier).Check(settings.Floor); err != nil {
		return nil, at("body.settings.floor: ", err)
	}
	rev := lambent.NewRevision(n.Namespace, n.Name, settings, d.Code, root, time.Now())
	if d.Source != d.Code {
		rev.Source = d.Source
	}
	return rev, nil
}

// shown is f with how it fares here.
func (s *server) shown(f *lambent.Function) *lambent.Function {
	shown := *f
	isolation := s.Executor.Isolation(f.Latest.Settings.Tier)
	shown.Isolation, shown.Circuit = &isolation, s.Circuit(f.Latest)
	return &shown
}

// families are the runtimes that stand for the latest of several, and how the names of those begin.
var families = map[string]string{"python": "python3.", "nodejs": "nodejs"}

// member is the runtime that a name stands for on this node: itself, or the latest of a family.
func (s *server) member(name string) (string, error) {
	prefix, ok := families[name]
	if !ok {
		return name, nil
	}
	latest, member := -1, ""
	for _, runtime := range s.Executor.Runtimes() {
		version, ok := strings.CutPrefix(runtime, prefix)
		if n, err := strconv.Atoi(version); ok && err == nil && n > latest {
			latest, member = n, runtime
		}
	}
	if member == "" {
		return "", lambent.Errorf(lambent.CodeTierUnavailable, "runtime: this node has no %s", name).
			WithHint("install it under /usr; lambent doctor lists the runtimes that are there")
	}
	return member, nil
}

// at gives err with the position of what it is about.
func at(prefix string, err error) error {
	e := *lambent.ErrorOf(err)
	e.Message = prefix + e.Message
	return &e
}

// notReady is err with the good news, if there is any.
func notReady(err error, news string) error {
	e := *lambent.ErrorOf(err)
	if e.Hint == "" {
		e.Hint = news
	}
	return &e
}

func goesOn(f *lambent.Function) string {
	if f == nil {
		return ""
	}
	return "revision " + f.Latest.ID + " goes on serving"
}

// keep stores the revision and gives it as stored: an older equal one keeps its creation time. It always
// writes, so that a delete that began before does not remove it, and comes before every reference to it.
func (s *server) keep(ctx context.Context, rev *lambent.Revision) (*lambent.Revision, error) {
	key := revisionsOf(rev.Namespace, rev.Function) + rev.ID
	switch entry, err := s.Store.Get(ctx, key); {
	case err == nil:
		if rev, err = decodeRevision(entry); err != nil {
			return nil, err
		}
	case !errors.Is(err, store.ErrNotFound):
		return nil, err
	}
	_, err := s.Store.Put(ctx, key, encode(rev), store.Any)
	if err != nil {
		s.Abandon(rev)
	}
	return rev, err
}

func (s *server) url(n Named) string {
	host := n.Name
	if n.Namespace != lambent.DefaultNamespace {
		host += "." + n.Namespace
	}
	return s.Endpoint() + "/fn/" + host + "/"
}

// stored reads the function; it is nil when there is none.
func (s *server) stored(ctx context.Context, n Named) (*lambent.Function, error) {
	entry, err := s.Store.Get(ctx, functionKey(n.Namespace, n.Name))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return DecodeFunction(entry)
}

// existing is stored, with an error when there is none.
func (s *server) existing(ctx context.Context, n Named) (*lambent.Function, error) {
	if err := n.check(); err != nil {
		return nil, err
	}
	f, err := s.stored(ctx, n)
	if err == nil && f == nil {
		err = n.unknown()
	}
	return f, err
}

type functionOutput struct {
	ETag string `header:"ETag"`
	Body *lambent.Function
}

func (s *server) get(ctx context.Context, in *struct{ Named }) (*functionOutput, error) {
	f, err := s.existing(ctx, in.Named)
	if err != nil {
		return nil, err
	}
	return &functionOutput{ETag: etag(f.Version), Body: s.shown(f)}, nil
}

// delete removes the function, which stops its traffic, and then what belonged to it. The revisions are
// listed first and removed only as listed, so that those of a deploy that follows stay.
func (s *server) delete(ctx context.Context, in *struct {
	Named
	IfMatch string `header:"If-Match"`
}) (*struct{}, error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	f, err := s.stored(ctx, in.Named)
	if err != nil {
		return nil, err
	}
	if f == nil {
		if err := s.removeOrphans(ctx, in.Named); err != nil {
			return nil, err
		}
		return nil, in.unknown()
	}
	if err := (Preconditions{IfMatch: in.IfMatch}).allow("function", f.Version); err != nil {
		return nil, err
	}
	revisions, err := listed(ctx, s.Store, revisionsOf(in.Namespace, in.Name))
	if err != nil {
		return nil, err
	}
	if _, err := s.Store.Delete(ctx, functionKey(in.Namespace, in.Name), f.Version); err != nil {
		return nil, err
	}
	if err := s.removeOrphans(ctx, in.Named); err != nil {
		return nil, err
	}
	if err := s.remove(ctx, revisions); err != nil {
		return nil, err
	}
	s.Changed(in.Namespace, in.Name, codeOf(revisions)...)
	s.Logger.Info("deleted", "function", in.Namespace+"/"+in.Name)
	return nil, s.Logs.Remove(in.Namespace, in.Name)
}

// codeOf gives the code and the sources of revisions.
func codeOf(revisions []store.Entry) (digests []string) {
	for _, entry := range revisions {
		if r, err := decodeRevision(entry); err == nil {
			digests = append(digests, r.Code, r.Source)
		}
	}
	return digests
}

func listed(ctx context.Context, st store.Store, prefix string) (out []store.Entry, err error) {
	for entry, err := range st.List(ctx, prefix) {
		if err != nil {
			return nil, err
		}
		out = append(out, entry)
	}
	return out, nil
}

// removeOrphans removes the aliases of a function that is not there. A delete that broke off may have left some,
// and a new function must not take them for its own.
func (s *server) removeOrphans(ctx context.Context, n Named) error {
	orphans, err := listed(ctx, s.Store, aliasesOf(n.Namespace, n.Name))
	if err != nil {
		return err
	}
	if f, err := s.stored(ctx, n); f != nil || err != nil {
		return err // what was listed may be f's
	}
	return s.remove(ctx, orphans)
}

// remove deletes the entries, but for those that were written since or are gone.
func (s *server) remove(ctx context.Context, entries []store.Entry) error {
	for _, entry := range entries {
		if _, err := s.Store.Delete(ctx, entry.Key, entry.Revision); err != nil && !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return nil
}

// Page is a part of the list of functions.
type Page struct {
	Functions []*lambent.Function `json:"functions" nullable:"false"`
	Next      string              `json:"next,omitempty" doc:"what to send as after for the next page; absent on the last"`
}

type pageOutput struct{ Body Page }

// list keeps the smallest names behind the cursor while it looks at each once, so a page costs the same
// wherever it is and holds no more than itself.
func (s *server) list(ctx context.Context, in *struct {
	Namespace string `query:"namespace" doc:"only of this namespace; a key of one sees no other"`
	Limit     int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	After     string `query:"after" doc:"NAMESPACE/NAME: only what comes behind it"`
}) (*pageOutput, error) {
	namespace, err := scope(ctx, in.Namespace)
	if err != nil {
		return nil, err
	}
	ns, name, ok := strings.Cut(in.After, "/")
	if in.After != "" && !ok {
		return nil, lambent.Errorf(lambent.CodeInvalidRequest, "query.after: %q is not of the form NAMESPACE/NAME", in.After)
	}
	order := func(a, b Named) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	}
	after := Named{ns, name}
	var first []Named // sorted, one more than the page
	for ns, name := range s.Functions.Names() {
		n := Named{ns, name}
		full := len(first) > in.Limit
		if namespace != "" && ns != namespace || order(n, after) <= 0 || full && order(n, first[in.Limit]) >= 0 {
			continue
		}
		if full {
			first = first[:in.Limit]
		}
		i, _ := slices.BinarySearchFunc(first, n, order)
		first = slices.Insert(first, i, n)
	}
	page := Page{Functions: []*lambent.Function{}}
	for _, n := range first[:min(len(first), in.Limit)] {
		if f, ok := s.Functions.Lookup(n.Namespace, n.Name); ok { // not if it was deleted meanwhile
			page.Functions = append(page.Functions, f)
		}
	}
	if len(first) > in.Limit {
		last := first[in.Limit-1]
		page.Next = last.Namespace + "/" + last.Name
	}
	return &pageOutput{page}, nil
}

// Revisions is the list of a function's revisions.
type Revisions struct {
	Revisions []*lambent.Revision `json:"revisions" nullable:"false"`
}

type revisionsOutput struct{ Body Revisions }

func (s *server) revisions(ctx context.Context, in *struct{ Named }) (*revisionsOutput, error) {
	if _, err := s.existing(ctx, in.Named); err != nil {
		return nil, err
	}
	out := &revisionsOutput{Revisions{[]*lambent.Revision{}}}
	for entry, err := range s.Store.List(ctx, revisionsOf(in.Namespace, in.Name)) {
		if err != nil {
			return nil, err
		}
		r, err := decodeRevision(entry)
		if err != nil {
			return nil, err
		}
		out.Body.Revisions = append(out.Body.Revisions, r)
	}
	slices.SortFunc(out.Body.Revisions, func(a, b *lambent.Revision) int {
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}

type revisionOutput struct{ Body *lambent.Revision }

func (s *server) revision(ctx context.Context, in *struct {
	Named
	ID string `path:"id" pattern:"^[0-9a-f]{16}$" patternDescription:"16 hex digits"`
}) (*revisionOutput, error) {
	if _, err := s.existing(ctx, in.Named); err != nil {
		return nil, err
	}
	r, err := s.storedRevision(ctx, in.Named, in.ID)
	if err != nil {
		return nil, err
	}
	return &revisionOutput{r}, nil
}

func (s *server) storedRevision(ctx context.Context, n Named, id string) (*lambent.Revision, error) {
	entry, err := s.Store.Get(ctx, revisionsOf(n.Namespace, n.Name)+id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, lambent.Errorf(lambent.CodeNotFound, "function %s has no revision %s", n.Name, id).
			WithHint("see what it has with: lambent get %s", n.Name)
	}
	if err != nil {
		return nil, err
	}
	return decodeRevision(entry)
}
