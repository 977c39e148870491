package control

import (
	"cmp"
	"context"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"lambent"
)

const keyScheme = "key" // in the OpenAPI document

// needs declares, as an operation's Security, the least role that may use it in the namespace of its path. Where
// the path names none it is the caller's own, and the handler must look no further (see [principalOf]). An
// operation that declares nothing is for the node's admin key.
func needs(role lambent.Role) []map[string][]string {
	return []map[string][]string{{keyScheme: {string(role)}}}
}

type principalKey struct{}

// principalOf gives who sent the request that ctx belongs to.
func principalOf(ctx context.Context) lambent.Principal {
	p, _ := ctx.Value(principalKey{}).(lambent.Principal) // the zero Principal may do nothing
	return p
}

// authenticated lets callers with a key pass.
func (s *server) authenticated(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, ok := s.Authenticate(r)
		if !ok {
			w.Header().Set("WWW-Authenticate", "Bearer")
			lambent.WriteError(w, lambent.Errorf(lambent.CodeUnauthorized, "the control API needs a key").
				WithHint("send Authorization: Bearer KEY, where KEY is what admin.key in the data folder holds, or one made with lambent key create"))
			return
		}
		w.Header().Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), principalKey{}, who)))
	})
}

// authorize stands before every operation, and logs what is written by whom.
func (s *server) authorize(ctx huma.Context, next func(huma.Context)) {
	op, who := ctx.Operation(), principalOf(ctx.Context())
	namespace, role := "", lambent.RoleAdmin
	if op.Security != nil {
		namespace, role = who.Namespace, lambent.Role(op.Security[0][keyScheme][0])
		if strings.Contains(op.Path, "{namespace}") {
			namespace = ctx.Param("namespace")
		}
	}
	refused := lambent.ErrorOf(who.Require(namespace, role))
	var status int
	if refused == nil {
		next(ctx)
		status = ctx.Status()
	} else {
		_, w := humago.Unwrap(ctx)
		lambent.WriteError(w, refused)
		status = refused.Status()
	}
	if r, _ := humago.Unwrap(ctx); writes(r.Method) && role != lambent.RoleInvoke {
		s.Logger.Info("audit", "operation", op.OperationID, "path", r.URL.Path, "by", who.String(),
			"refused", refused != nil, "status", status)
	}
}

// scope is the namespace that a list shows: the one asked for, where "" asks for all that the caller may see.
func scope(ctx context.Context, asked string) (string, error) {
	who := principalOf(ctx)
	if asked == "" || who.Namespace == "" {
		return cmp.Or(asked, who.Namespace), nil
	}
	return asked, who.Require(asked, lambent.RoleInvoke)
}

func writes(method string) bool { return method != http.MethodGet && method != http.MethodHead }

// forNode lets the node's admin pass, and nobody else.
func forNode(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := principalOf(r.Context()).Require("", lambent.RoleAdmin); err != nil {
			lambent.WriteError(w, lambent.ErrorOf(err))
			return
		}
		next.ServeHTTP(w, r)
	})
}
