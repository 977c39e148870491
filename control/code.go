package control

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"lambent"
	"lambent/internal/inbound"
	"lambent/store"
)

// Raw gives a handler the request as it came, for what huma would buffer.
type Raw struct {
	r *http.Request
	w http.ResponseWriter
}

// Resolve is huma's hook between parsing a request and handling it.
func (h *Raw) Resolve(ctx huma.Context) []error {
	h.r, h.w = humago.Unwrap(ctx)
	return nil
}

// bytesOf documents a body that is streamed.
func bytesOf(contentTypes ...string) map[string]*huma.MediaType {
	content := make(map[string]*huma.MediaType)
	for _, t := range contentTypes {
		content[t] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}
	}
	return content
}

func (s *server) codeRoutes() {
	for _, method := range []string{http.MethodPut, http.MethodPost} {
		register(s, huma.Operation{OperationID: strings.ToLower(method) + "-code", Security: needs(lambent.RoleDeploy), Method: method, Path: "/v1/code", Tags: []string{"code"},
			Summary:     "Upload a bundle",
			Description: "A tar, tar.gz or zip archive. The digest does not depend on which, nor on the order, times or owners of the files.",
			RequestBody: &huma.RequestBody{Required: true, Content: bytesOf("application/octet-stream")},
		}, s.upload)
	}
	register(s, huma.Operation{OperationID: "has-code", Security: needs(lambent.RoleDeploy), Method: http.MethodHead, Path: "/v1/code/{digest}", Tags: []string{"code"},
		Summary: "Tell whether a bundle is here"}, s.has)
}

// Bundle is an uploaded bundle.
type Bundle struct {
	Digest string `json:"digest"`
	Size   int64  `json:"size" doc:"bytes"`
}

type bundleOutput struct{ Body Bundle }

func (s *server) upload(ctx context.Context, in *struct{ Raw }) (*bundleOutput, error) {
	body, end, err := inbound.Body(in.w, in.r, -1) // the store of the code has the limit
	if err != nil {
		return nil, err
	}
	if body == nil {
		return nil, lambent.Errorf(lambent.CodeBundleInvalid, "the bundle is empty").
			WithHint("send a tar, tar.gz or zip archive as the body")
	}
	defer end()
	digest, size, err := s.Code.Put(ctx, body)
	if err != nil {
		return nil, err
	}
	if err := s.own(ctx, digest); err != nil {
		return nil, err
	}
	return &bundleOutput{Bundle{digest, size}}, nil
}

// codePrefix is the prefix of the keys that say which namespace has uploaded a bundle: "code.NAMESPACE.HEX".
const codePrefix = "code."

func codeKey(namespace, digest string) string {
	return codePrefix + namespace + "." + strings.TrimPrefix(digest, "sha256:")
}

// own notes that the caller's namespace has uploaded a bundle. A digest alone opens nothing: who has learnt one, from
// a log or a screen, must not get to run, read or know of another namespace's code by it.
func (s *server) own(ctx context.Context, digest string) error {
	namespace := principalOf(ctx).Namespace
	if namespace == "" {
		return nil
	}
	_, err := s.Store.Put(ctx, codeKey(namespace, digest), nil, store.Any)
	return err
}

// here tells whether there is a bundle that the caller may use: with the node's key any.
func (s *server) here(ctx context.Context, digest string) (bool, error) {
	namespace := principalOf(ctx).Namespace
	if namespace != "" {
		_, err := s.Store.Get(ctx, codeKey(namespace, digest))
		if errors.Is(err, store.ErrNotFound) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	release, ok := s.Code.Hold(digest)
	if ok {
		release() // a use: what is asked for stays for a while
	}
	return ok, nil
}

// hold keeps what a revision is made of from being removed until release.
func (s *server) hold(r *lambent.Revision) (release func(), err error) {
	release, ok := s.Code.Hold(r.Code)
	if !ok {
		return nil, lambent.Errorf(lambent.CodeCodeUnavailable, "the code %s of revision %s is not here any more", r.Code, r.ID).
			WithHint("deploy the function again")
	}
	if source, ok := s.Code.Hold(r.Source); ok { // only a diff needs it
		code := release
		release = func() { code(); source() }
	}
	return release, nil
}

// mustHave is not_found where the caller has no bundle that a field names.
func (s *server) mustHave(ctx context.Context, field, digest string) error {
	ok, err := s.here(ctx, digest)
	if err == nil && !ok {
		err = lambent.Errorf(lambent.CodeNotFound, "%s: there is no bundle %s", field, digest).WithHint("upload it first: PUT /v1/code")
	}
	return err
}

func (s *server) has(ctx context.Context, in *struct {
	Digest string `path:"digest" pattern:"^sha256:[0-9a-f]{64}$"`
}) (*struct{}, error) {
	switch ok, err := s.here(ctx, in.Digest); {
	case err != nil:
		return nil, err
	case !ok:
		return nil, lambent.Errorf(lambent.CodeNotFound, "there is no bundle %s", in.Digest)
	}
	return nil, nil
}
