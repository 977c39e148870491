package control

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"lambent"
	"lambent/store"
)

// KeyPrefix is the prefix of the keys of API keys in the store: "key.NAMESPACE.NAME".
const KeyPrefix = "key."

const (
	keysPath = "/v1/namespaces/{namespace}/keys"
	keyPath  = keysPath + "/{name}"
)

func (s *server) keyRoutes() {
	tags := []string{"keys"}
	register(s, huma.Operation{OperationID: "create-key", Security: needs(lambent.RoleAdmin), Method: http.MethodPost, Path: keysPath, Tags: tags,
		Summary: "Make an API key", Description: "The answer has the key itself, which is shown this once and never again.", DefaultStatus: http.StatusCreated,
	}, s.createKey)
	register(s, huma.Operation{OperationID: "list-keys", Security: needs(lambent.RoleAdmin), Method: http.MethodGet, Path: keysPath, Tags: tags,
		Summary: "List the API keys of a namespace by name"}, s.listKeys)
	register(s, huma.Operation{OperationID: "delete-key", Security: needs(lambent.RoleAdmin), Method: http.MethodDelete, Path: keyPath, Tags: tags,
		Summary: "Delete an API key; it opens nothing any more when this returns"}, s.deleteKey)
}

// storedKey is an API key as the store has it.
type storedKey struct {
	lambent.Key
	Sum []byte `json:"sum"` // SHA-256 of the key
}

// DecodeKey reads an API key and its SHA-256 hash from its entry. An entry that holds something else is an
// internal error.
func DecodeKey(e store.Entry) (*lambent.Key, [sha256.Size]byte, error) {
	var k storedKey
	if err := json.Unmarshal(e.Value, &k); err != nil {
		return nil, [sha256.Size]byte{}, damaged(e, err)
	}
	if lambent.CheckName("namespace", k.Namespace) != nil || KeyPrefix+k.Namespace+"."+k.Name != e.Key || len(k.Sum) != sha256.Size {
		return nil, [sha256.Size]byte{}, damaged(e, nil)
	}
	return &k.Key, [sha256.Size]byte(k.Sum), nil
}

// KeyName gives the namespace and name in an API key's key in the store.
func KeyName(key string) (namespace, name string) {
	namespace, name, _ = strings.Cut(strings.TrimPrefix(key, KeyPrefix), ".")
	return namespace, name
}

// KeySpec says which key to make.
type KeySpec struct {
	Name string       `json:"name"`
	Role lambent.Role `json:"role" doc:"admin, deploy or invoke"`
}

// NewKey is a key that was made.
type NewKey struct {
	lambent.Key
	Text string `json:"text" doc:"the key itself, for Authorization: Bearer"`
}

type keyOutput struct {
	CacheControl string `header:"Cache-Control"`
	Body         NewKey
}

func (s *server) createKey(ctx context.Context, in *struct {
	Namespace string `path:"namespace"`
	Body      KeySpec
}) (*keyOutput, error) {
	if err := errors.Join(lambent.CheckName("namespace", in.Namespace), lambent.CheckName("key", in.Body.Name)); err != nil {
		return nil, err
	}
	if err := lambent.CheckRole(in.Body.Role); err != nil {
		return nil, at("body.role: ", err)
	}
	text, sum := s.MakeKey()
	k := lambent.Key{Namespace: in.Namespace, Name: in.Body.Name, Role: in.Body.Role, Created: now()}
	at := KeyPrefix + k.Namespace + "." + k.Name
	revision, err := s.Store.Put(ctx, at, encode(storedKey{k, sum[:]}), 0)
	if errors.Is(err, store.ErrConflict) {
		return nil, lambent.Errorf(lambent.CodeConflict, "namespace %s has a key %s already", k.Namespace, k.Name).
			WithHint("choose another name, or delete it first: lambent key rm %s", k.Name)
	}
	if err != nil {
		return nil, err
	}
	if err := s.Applied(ctx, at, revision); err != nil {
		return nil, err
	}
	return &keyOutput{CacheControl: "no-store", Body: NewKey{k, text}}, nil
}

// Keys is a list of API keys.
type Keys struct {
	Keys []*lambent.Key `json:"keys" nullable:"false"`
}

type keysOutput struct{ Body Keys }

func (s *server) listKeys(ctx context.Context, in *struct {
	Namespace string `path:"namespace"`
}) (*keysOutput, error) {
	if err := lambent.CheckName("namespace", in.Namespace); err != nil {
		return nil, err
	}
	out := &keysOutput{Keys{[]*lambent.Key{}}}
	for e, err := range s.Store.List(ctx, KeyPrefix+in.Namespace+".") {
		if err != nil {
			return nil, err
		}
		k, _, err := DecodeKey(e)
		if err != nil {
			return nil, err
		}
		out.Body.Keys = append(out.Body.Keys, k)
	}
	slices.SortFunc(out.Body.Keys, func(a, b *lambent.Key) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func (s *server) deleteKey(ctx context.Context, in *struct {
	Namespace string `path:"namespace"`
	Name      string `path:"name"`
}) (*struct{}, error) {
	if err := errors.Join(lambent.CheckName("namespace", in.Namespace), lambent.CheckName("key", in.Name)); err != nil {
		return nil, err
	}
	key := KeyPrefix + in.Namespace + "." + in.Name
	revision, err := s.Store.Delete(ctx, key, store.Any)
	if errors.Is(err, store.ErrNotFound) {
		return nil, lambent.Errorf(lambent.CodeNotFound, "namespace %s has no key %s", in.Namespace, in.Name).
			WithHint("see what it has with: lambent key ls")
	}
	if err != nil {
		return nil, err
	}
	return nil, s.Applied(ctx, key, revision)
}
