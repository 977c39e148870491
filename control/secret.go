package control

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"lambent"
	"lambent/internal/inbound"
)

const (
	secretsPath = "/v1/namespaces/{namespace}/secrets"
	secretPath  = secretsPath + "/{name}"
)

// Secrets keeps sealed values. Nothing of it gives one back.
type Secrets interface {
	// Set gives a secret its value; the secret is new when its version is 1.
	Set(ctx context.Context, namespace, name string, value []byte) (*lambent.Secret, error)
	// Get is not_found when there is none.
	Get(ctx context.Context, namespace, name string) (*lambent.Secret, error)
	List(ctx context.Context, namespace string) ([]*lambent.Secret, error)
	Delete(ctx context.Context, namespace, name string) error
	// Rotate seals every value with a new key, drops the older ones, and gives the number of values.
	Rotate(ctx context.Context) (int, error)
}

func (s *server) secretRoutes() {
	tags := []string{"secrets"}
	register(s, huma.Operation{OperationID: "set-secret", Security: needs(lambent.RoleAdmin), Method: http.MethodPut, Path: secretPath, Tags: tags,
		Summary:     "Give a secret its value, the bytes of the body",
		Description: "Functions that use it meet the new value in every request that is sent after this has returned. No operation gives a value back.",
		RequestBody: &huma.RequestBody{Required: true, Content: bytesOf("application/octet-stream")},
	}, s.setSecret)
	register(s, huma.Operation{OperationID: "get-secret", Security: needs(lambent.RoleDeploy), Method: http.MethodGet, Path: secretPath, Tags: tags,
		Summary: "Tell of a secret, but for its value"}, s.getSecret)
	register(s, huma.Operation{OperationID: "list-secrets", Security: needs(lambent.RoleDeploy), Method: http.MethodGet, Path: secretsPath, Tags: tags,
		Summary: "List the secrets of a namespace by name, but for their values"}, s.listSecrets)
	register(s, huma.Operation{OperationID: "delete-secret", Security: needs(lambent.RoleAdmin), Method: http.MethodDelete, Path: secretPath, Tags: tags,
		Summary: "Delete a secret that no function uses"}, s.deleteSecret)
	register(s, huma.Operation{OperationID: "rotate-secrets", Method: http.MethodPost, Path: "/v1/system/secrets/rotate", Tags: tags,
		Summary: "Seal every secret of the node with a new key"}, s.rotateSecrets)
}

// NamedSecret is what every operation on one secret takes.
type NamedSecret struct {
	Namespace string `path:"namespace"`
	Name      string `path:"name"`
}

func (n NamedSecret) check() error {
	return errors.Join(lambent.CheckName("namespace", n.Namespace), lambent.CheckName("secret", n.Name))
}

type secretOutput struct {
	Status int
	Body   *lambent.Secret
}

func (s *server) setSecret(ctx context.Context, in *struct {
	NamedSecret
	Raw
}) (*secretOutput, error) {
	body, end, err := inbound.Body(in.w, in.r, -1)
	if err != nil {
		return nil, err
	}
	defer end()
	var value []byte
	if body != nil {
		if value, err = io.ReadAll(io.LimitReader(body, lambent.MaxSecret+1)); err != nil {
			return nil, err
		}
	}
	defer clear(value)
	// A client that leaves now must not leave a value behind that instances are not told of.
	secret, err := s.Secrets.Set(context.WithoutCancel(ctx), in.Namespace, in.Name, value)
	if err != nil {
		return nil, err
	}
	s.Refresh(func(r *lambent.Revision) bool {
		return r.Namespace == in.Namespace && r.Settings.UsesSecret(in.Name)
	})
	if secret.Version == 1 {
		return &secretOutput{http.StatusCreated, secret}, nil
	}
	return &secretOutput{http.StatusOK, secret}, nil
}

func (s *server) getSecret(ctx context.Context, in *struct{ NamedSecret }) (*secretOutput, error) {
	secret, err := s.Secrets.Get(ctx, in.Namespace, in.Name)
	if err != nil {
		return nil, err
	}
	return &secretOutput{http.StatusOK, secret}, nil
}

// SecretList is the secrets of a namespace.
type SecretList struct {
	Secrets []*lambent.Secret `json:"secrets" nullable:"false"`
}

type secretsOutput struct{ Body SecretList }

func (s *server) listSecrets(ctx context.Context, in *struct {
	Namespace string `path:"namespace"`
}) (*secretsOutput, error) {
	secrets, err := s.Secrets.List(ctx, in.Namespace)
	if err != nil {
		return nil, err
	}
	return &secretsOutput{SecretList{secrets}}, nil
}

func (s *server) deleteSecret(ctx context.Context, in *struct{ NamedSecret }) (*struct{}, error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	s.naming.Lock()
	defer s.naming.Unlock()
	users, err := s.users(ctx, in.NamedSecret)
	if err != nil {
		return nil, err
	}
	if len(users) > 0 {
		return nil, lambent.Errorf(lambent.CodeConflict, "secret %s is used by %s", in.Name, strings.Join(users, ", ")).
			WithHint("deploy them without it, and move or remove their aliases")
	}
	return nil, s.Secrets.Delete(context.WithoutCancel(ctx), in.Namespace, in.Name) // as in putNaming
}

// putNaming stores record, which sends requests to targets, if the secrets that they name are there. The delete of
// one comes before, or it sees who names it; so the write must be over when the lock is free, whoever leaves.
func (s *server) putNaming(ctx context.Context, key string, record any, version uint64, targets []lambent.Target) (stored uint64, err error) {
	s.naming.RLock()
	defer s.naming.RUnlock()
	defer func() {
		if err != nil { // they were made ready for nothing
			for _, t := range targets {
				s.Abandon(t.Revision)
			}
		}
	}()
	for _, t := range targets {
		if err := s.checkSecrets(ctx, t.Revision.Namespace, t.Revision.Settings); err != nil {
			return 0, err
		}
	}
	return s.Store.Put(context.WithoutCancel(ctx), key, encode(record), version)
}

// users gives what uses a secret: "f:latest", "g:prod". It asks the store, which has what this node does not yet
// route by.
func (s *server) users(ctx context.Context, n NamedSecret) ([]string, error) {
	var out []string
	live := map[string]bool{}
	for e, err := range s.Store.List(ctx, functionKey(n.Namespace, "")) {
		if err != nil {
			return nil, err
		}
		f, err := DecodeFunction(e)
		if err != nil {
			return nil, err
		}
		live[f.Name] = true
		if f.Latest.Settings.UsesSecret(n.Name) {
			out = append(out, f.Name+":"+lambent.LatestAlias)
		}
	}
	for e, err := range s.Store.List(ctx, AliasPrefix+n.Namespace+".") {
		if err != nil {
			return nil, err
		}
		a, err := DecodeAlias(e)
		if err != nil {
			return nil, err
		}
		if live[a.Function] && slices.ContainsFunc(a.Targets, func(t lambent.Target) bool { return t.Revision.Settings.UsesSecret(n.Name) }) {
			out = append(out, a.Function+":"+a.Name)
		}
	}
	slices.Sort(out)
	return out, nil
}

// checkSecrets tells whether the secrets that settings name are there.
func (s *server) checkSecrets(ctx context.Context, namespace string, settings lambent.Settings) error {
	for _, target := range slices.Sorted(maps.Keys(settings.Secrets)) {
		name := settings.Secrets[target]
		_, err := s.Secrets.Get(ctx, namespace, name)
		if lambent.HasCode(err, lambent.CodeNotFound) {
			return lambent.Errorf(lambent.CodeInvalidRequest, "secrets.%s: there is no secret %s in namespace %s", target, name, namespace).
				WithHint("make it first: lambent secret set %s", name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Rotation tells what a rotation did.
type Rotation struct {
	Secrets int `json:"secrets" doc:"how many values were sealed anew"`
}

type rotationOutput struct{ Body Rotation }

func (s *server) rotateSecrets(ctx context.Context, _ *struct{}) (*rotationOutput, error) {
	n, err := s.Secrets.Rotate(ctx)
	if err != nil {
		return nil, err
	}
	return &rotationOutput{Rotation{n}}, nil
}
