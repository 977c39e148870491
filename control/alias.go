package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"lambent"
	"lambent/store"
)

const (
	aliasesPath = functionPath + "/aliases"
	aliasPath   = aliasesPath + "/{alias}"
)

func (s *server) aliasRoutes() {
	tags := []string{"aliases"}
	register(s, huma.Operation{OperationID: "set-alias", Security: needs(lambent.RoleDeploy), Method: http.MethodPut, Path: aliasPath, Tags: tags,
		Summary:     "Make or move an alias",
		Description: "Each revision is made ready before the alias points to it; until then, and when that fails, the alias stays as it was.",
	}, s.setAlias)
	register(s, huma.Operation{OperationID: "get-alias", Security: needs(lambent.RoleDeploy), Method: http.MethodGet, Path: aliasPath, Tags: tags,
		Summary: "Get an alias; latest is one, too"}, s.getAlias)
	register(s, huma.Operation{OperationID: "delete-alias", Security: needs(lambent.RoleDeploy), Method: http.MethodDelete, Path: aliasPath, Tags: tags,
		Summary: "Delete an alias"}, s.deleteAlias)
	register(s, huma.Operation{OperationID: "list-aliases", Security: needs(lambent.RoleDeploy), Method: http.MethodGet, Path: aliasesPath, Tags: tags,
		Summary: "List a function's aliases: latest, the others by name, the published versions"}, s.listAliases)
	register(s, huma.Operation{OperationID: "publish", Security: needs(lambent.RoleDeploy), Method: http.MethodPost, Path: functionPath + "/publish", Tags: tags,
		Summary:     "Give a revision a number that never moves",
		Description: "A revision that has a number already keeps it.",
	}, s.publish)
	register(s, huma.Operation{OperationID: "rollback", Security: needs(lambent.RoleDeploy), Method: http.MethodPost, Path: functionPath + "/rollback", Tags: tags,
		Summary:     "Move an alias back to what it pointed to before its last move",
		Description: "A second rollback undoes the first. If-Match is about the alias, which for latest is the function.",
	}, s.rollback)
	register(s, huma.Operation{OperationID: "diff", Security: needs(lambent.RoleDeploy), Method: http.MethodGet, Path: functionPath + "/diff", Tags: []string{"functions"},
		Summary: "Tell how two revisions differ: settings, files of the code, names in the environment"}, s.diff)
}

// NamedAlias is what every operation on one alias takes.
type NamedAlias struct {
	Named
	Alias string `path:"alias"`
}

// AliasTarget is a revision and its share of an alias's traffic.
type AliasTarget struct {
	Revision string `json:"revision" doc:"id of a revision, number of a published version, or an alias with one target"`
	Weight   int    `json:"weight,omitempty" minimum:"1" maximum:"1000" default:"1"`
}

// AliasSpec says what an alias is to be.
type AliasSpec struct {
	Targets []AliasTarget `json:"targets"`
	Sticky  string        `json:"sticky,omitempty" doc:"where requests carry the key that decides between the targets: header:NAME or query:NAME"`
}

type aliasOutput struct {
	Status int
	ETag   string `header:"ETag"`
	Body   *lambent.Alias
}

func answerWith(status int, a *lambent.Alias) *aliasOutput {
	return &aliasOutput{status, etag(a.Version), a}
}

func (s *server) setAlias(ctx context.Context, in *struct {
	NamedAlias
	Preconditions
	Body AliasSpec
}) (*aliasOutput, error) {
	f, err := s.existing(ctx, in.Named)
	if err != nil {
		return nil, err
	}
	if err := lambent.CheckAlias(in.Alias); err != nil {
		return nil, err
	}
	before, err := s.alias(ctx, f, in.Alias)
	if err != nil {
		return nil, err
	}
	if err := in.allow("alias", versionOf(before)); err != nil {
		return nil, err
	}
	a := &lambent.Alias{Namespace: f.Namespace, Function: f.Name, Name: in.Alias, Sticky: in.Body.Sticky}
	for i, t := range in.Body.Targets {
		rev, err := s.resolve(ctx, f, t.Revision)
		if err != nil {
			return nil, at(fmt.Sprintf("body.targets[%d].revision: ", i), err)
		}
		a.Targets = append(a.Targets, lambent.Target{Revision: rev, Weight: t.Weight})
	}
	if err := a.Check(); err != nil {
		return nil, at("body.", err)
	}
	if before == nil {
		return s.point(ctx, f, a, nil)
	}
	a.Previous = before.Weights()
	if slices.Equal(a.Weights(), a.Previous) {
		if a.Sticky == before.Sticky {
			return answerWith(http.StatusOK, before), nil
		}
		a.Previous = before.Previous
	}
	return s.point(ctx, f, a, before)
}

// point makes the targets of a ready, and puts a in the place of before, which is nil when there is none.
func (s *server) point(ctx context.Context, f *lambent.Function, a, before *lambent.Alias) (*aliasOutput, error) {
	for _, t := range a.Targets {
		release, err := s.hold(t.Revision)
		if err != nil {
			return nil, err
		}
		defer release()
		if _, err := s.Ready(ctx, t.Revision); err != nil {
			return nil, notReady(err, fmt.Sprintf("nothing has changed: revision %s is not ready for alias %s", t.Revision.ID, a.Name))
		}
	}
	for _, t := range a.Targets {
		if _, err := s.keep(ctx, t.Revision); err != nil {
			return nil, err
		}
	}
	a.Updated = now()
	key := aliasesOf(a.Namespace, a.Function) + a.Name
	version, err := s.putNaming(ctx, key, a, versionOf(before), a.Targets)
	if err != nil {
		return nil, err
	}
	a.Version = version
	// A delete of the function meanwhile may not have seen this alias, and it must not pass to a new function.
	n := Named{f.Namespace, f.Name}
	switch there, err := s.stored(ctx, n); {
	case err != nil:
		return nil, err
	case there == nil || !there.Created.Equal(f.Created):
		if err := s.remove(ctx, []store.Entry{{Key: key, Revision: version}}); err != nil {
			return nil, err
		}
		return nil, n.unknown()
	}
	if err := s.Applied(ctx, key, version); err != nil {
		return nil, fmt.Errorf("alias %s is set, but this node does not route by it yet: %w", a.Name, err)
	}
	s.Changed(f.Namespace, f.Name)
	s.Logger.Info("alias set", "function", f.Namespace+"/"+f.Name, "alias", a.Name, "targets", a.Weights())
	if before == nil {
		return answerWith(http.StatusCreated, a), nil
	}
	return answerWith(http.StatusOK, a), nil
}

func versionOf(a *lambent.Alias) uint64 {
	if a == nil {
		return 0
	}
	return a.Version
}

// alias reads an alias of f; it is nil when there is none.
func (s *server) alias(ctx context.Context, f *lambent.Function, name string) (*lambent.Alias, error) {
	if name == lambent.LatestAlias {
		return f.Alias(), nil
	}
	if !lambent.IsPublished(name) && lambent.CheckName("alias", name) != nil {
		return nil, nil // it may be no key of the store
	}
	entry, err := s.Store.Get(ctx, aliasesOf(f.Namespace, f.Name)+name)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return DecodeAlias(entry)
}

// existingAlias is alias, with an error when there is none.
func (s *server) existingAlias(ctx context.Context, f *lambent.Function, name string) (*lambent.Alias, error) {
	a, err := s.alias(ctx, f, name)
	if err == nil && a == nil {
		err = unknownAlias(f.Name, name)
	}
	return a, err
}

func unknownAlias(function, alias string) error {
	return lambent.Errorf(lambent.CodeNotFound, "function %s has no alias %q", function, alias).
		WithHint("see what it has with: lambent alias ls %s", function)
}

// resolve gives the revision of f that ref stands for: an id, a number or an alias.
func (s *server) resolve(ctx context.Context, f *lambent.Function, ref string) (*lambent.Revision, error) {
	if lambent.IsRevisionID(ref) {
		return s.storedRevision(ctx, Named{f.Namespace, f.Name}, ref)
	}
	a, err := s.existingAlias(ctx, f, ref)
	if err != nil {
		return nil, err
	}
	if len(a.Targets) > 1 {
		return nil, lambent.Errorf(lambent.CodeInvalidRequest, "alias %s points to %d revisions", a.Name, len(a.Targets)).
			WithHint("name one of them by its id")
	}
	return a.Targets[0].Revision, nil
}

func (s *server) getAlias(ctx context.Context, in *struct{ NamedAlias }) (*aliasOutput, error) {
	f, err := s.existing(ctx, in.Named)
	if err != nil {
		return nil, err
	}
	a, err := s.existingAlias(ctx, f, in.Alias)
	if err != nil {
		return nil, err
	}
	return answerWith(http.StatusOK, a), nil
}

func (s *server) deleteAlias(ctx context.Context, in *struct {
	NamedAlias
	IfMatch string `header:"If-Match"`
}) (*struct{}, error) {
	f, err := s.existing(ctx, in.Named)
	if err != nil {
		return nil, err
	}
	if err := lambent.CheckAlias(in.Alias); err != nil {
		return nil, err
	}
	a, err := s.existingAlias(ctx, f, in.Alias)
	if err != nil {
		return nil, err
	}
	if err := (Preconditions{IfMatch: in.IfMatch}).allow("alias", a.Version); err != nil {
		return nil, err
	}
	if _, err = s.Store.Delete(ctx, aliasesOf(f.Namespace, f.Name)+a.Name, a.Version); err != nil {
		return nil, err
	}
	s.Changed(f.Namespace, f.Name)
	return nil, nil
}

// Aliases is the list of a function's aliases.
type Aliases struct {
	Aliases []*lambent.Alias `json:"aliases" nullable:"false"`
}

type aliasesOutput struct{ Body Aliases }

func (s *server) listAliases(ctx context.Context, in *struct{ Named }) (*aliasesOutput, error) {
	f, err := s.existing(ctx, in.Named)
	if err != nil {
		return nil, err
	}
	aliases, err := s.aliases(ctx, f)
	return &aliasesOutput{Aliases{aliases}}, err
}

// aliases gives the aliases of f: latest, the others by name, the published versions.
func (s *server) aliases(ctx context.Context, f *lambent.Function) ([]*lambent.Alias, error) {
	out := []*lambent.Alias{f.Alias()}
	for entry, err := range s.Store.List(ctx, aliasesOf(f.Namespace, f.Name)) {
		if err != nil {
			return nil, err
		}
		a, err := DecodeAlias(entry)
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	slices.SortFunc(out[1:], func(a, b *lambent.Alias) int {
		return cmp.Or(cmp.Compare(number(a.Name), number(b.Name)), cmp.Compare(a.Name, b.Name))
	})
	return out, nil
}

// number is the number of a published version, and 0 for other aliases.
func number(name string) int {
	n, err := strconv.Atoi(name)
	if err != nil {
		return 0
	}
	return n
}

// maxRace bounds how often a publish tries the next number because another one has taken it.
const maxRace = 10

// Publish says what to publish.
type Publish struct {
	Revision string `json:"revision,omitempty" doc:"as in a target of an alias; latest when absent"`
}

func (s *server) publish(ctx context.Context, in *struct {
	Named
	Body *Publish
}) (*aliasOutput, error) {
	f, err := s.existing(ctx, in.Named)
	if err != nil {
		return nil, err
	}
	ref := lambent.LatestAlias
	if in.Body != nil {
		ref = cmp.Or(in.Body.Revision, ref)
	}
	rev, err := s.resolve(ctx, f, ref)
	if err != nil {
		return nil, at("body.revision: ", err)
	}
	for range maxRace {
		aliases, err := s.aliases(ctx, f)
		if err != nil {
			return nil, err
		}
		for _, a := range aliases {
			if lambent.IsPublished(a.Name) && a.Targets[0].Revision.ID == rev.ID {
				return answerWith(http.StatusOK, a), nil
			}
		}
		next := number(aliases[len(aliases)-1].Name) + 1
		out, err := s.point(ctx, f, &lambent.Alias{Namespace: f.Namespace, Function: f.Name, Name: strconv.Itoa(next),
			Targets: []lambent.Target{{Revision: rev, Weight: 1}}}, nil)
		if !errors.Is(err, store.ErrConflict) {
			return out, err
		}
	}
	return nil, store.ErrConflict
}

// Rollback says what to roll back.
type Rollback struct {
	Alias string `json:"alias,omitempty" doc:"latest when absent"`
}

func (s *server) rollback(ctx context.Context, in *struct {
	Named
	IfMatch string `header:"If-Match"`
	Body    *Rollback
}) (*aliasOutput, error) {
	f, err := s.existing(ctx, in.Named)
	if err != nil {
		return nil, err
	}
	name := lambent.LatestAlias
	if in.Body != nil {
		name = cmp.Or(in.Body.Alias, name)
	}
	before, err := s.existingAlias(ctx, f, name)
	if err != nil {
		return nil, err
	}
	if lambent.IsPublished(name) {
		return nil, lambent.CheckAlias(name)
	}
	if err := (Preconditions{IfMatch: in.IfMatch}).allow("alias", before.Version); err != nil {
		return nil, err
	}
	if len(before.Previous) == 0 {
		return nil, lambent.Errorf(lambent.CodeConflict, "alias %s of %s has not moved yet: there is nothing to go back to", name, f.Name)
	}
	back := *before
	back.Targets, back.Previous = nil, before.Weights()
	for _, w := range before.Previous {
		rev, err := s.storedRevision(ctx, in.Named, w.Revision)
		if err != nil {
			return nil, err
		}
		back.Targets = append(back.Targets, lambent.Target{Revision: rev, Weight: w.Weight})
	}
	if name != lambent.LatestAlias {
		return s.point(ctx, f, &back, before)
	}
	release, err := s.hold(back.Targets[0].Revision)
	if err != nil {
		return nil, err
	}
	defer release()
	if _, err := s.Ready(ctx, back.Targets[0].Revision); err != nil {
		return nil, notReady(err, goesOn(f))
	}
	f, err = s.serve(ctx, f, back.Targets[0].Revision)
	if err != nil {
		return nil, err
	}
	return answerWith(http.StatusOK, f.Alias()), nil
}
