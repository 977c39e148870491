package control

import (
	"context"
	"encoding/json"
	"net/http"
	"reflect"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"lambent"
)

func (s *server) buildRoutes() {
	register(s, huma.Operation{OperationID: "build", Method: http.MethodPost, Path: "/v1/namespaces/{namespace}/builds", Tags: []string{"code"},
		Security:    needs(lambent.RoleDeploy),
		Summary:     "Build the code of an uploaded source",
		Description: "Fetches the dependencies that a lock file names and compiles what is to be compiled, in a sandbox. The code is the source itself where there is nothing to build. Who leaves cancels the build.",
		Responses: map[string]*huma.Response{"200": {
			Description: "One JSON object in a line for each line that the tools write; the last has built, or error",
			Content: map[string]*huma.MediaType{"application/x-ndjson": {
				Schema: s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[BuildLine](), true, "BuildLine"),
			}},
		}},
	}, s.build)
}

// BuildLine is a line of the answer to a build. One field is set.
type BuildLine struct {
	Log   *string        `json:"log,omitempty"`
	Built *lambent.Built `json:"built,omitempty"`
	Error *lambent.Error `json:"error,omitempty"`
}

func (s *server) build(ctx context.Context, in *struct {
	Namespace string `path:"namespace"`
	Body      lambent.Build
}) (*huma.StreamResponse, error) {
	if err := lambent.CheckName("namespace", in.Namespace); err != nil {
		return nil, err
	}
	b := in.Body
	var err error
	if b.Runtime, err = s.member(b.Runtime); err != nil {
		return nil, at("body.", err)
	}
	if rt, ok := lambent.RuntimeOf(b.Runtime); !ok || !rt.Command {
		settings, err := lambent.Settings{Runtime: b.Runtime, Handler: b.Handler}.Complete()
		if err != nil {
			return nil, at("body.", err)
		}
		b.Handler = settings.Handler
	}
	if err := s.mustHave(ctx, "body.source", b.Source); err != nil {
		return nil, err
	}
	return &huma.StreamResponse{Body: func(h huma.Context) {
		r, w := humago.Unwrap(h)
		w.Header().Set("Content-Type", "application/x-ndjson")
		lines := &buildLines{enc: json.NewEncoder(w), flush: http.NewResponseController(w).Flush}
		built, err := s.Build(r.Context(), in.Namespace, b, func(line string) { lines.write(BuildLine{Log: &line}) })
		if err == nil {
			err = s.own(r.Context(), built.Code)
		}
		if err != nil {
			lines.write(BuildLine{Error: s.fault(*h.Operation(), err)})
			return
		}
		lines.write(BuildLine{Built: built})
	}}, nil
}

// buildLines writes lines as they come, from several goroutines. A client that has left has nobody to tell, and
// its context ends the build.
type buildLines struct {
	mu    sync.Mutex
	enc   *json.Encoder
	flush func() error
}

func (l *buildLines) write(line BuildLine) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.enc.Encode(line) == nil {
		_ = l.flush()
	}
}
