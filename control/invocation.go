package control

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"maps"
	"net/http"
	"reflect"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"lambent"
	"lambent/internal/inbound"
)

// Headers of an answer to an invocation. StatusHeader tells the function's answers from the platform's
// errors: only the former have it.
const (
	InvocationHeader = "Lambent-Invocation"
	StatusHeader     = "Lambent-Status"
)

func (s *server) invocationRoutes() {
	tags := []string{"invocations"}
	register(s, huma.Operation{OperationID: "invoke", Security: needs(lambent.RoleInvoke), Method: http.MethodPost, Path: functionPath + "/invocations", Tags: tags,
		Summary:     "Invoke a function",
		Description: "Sends the body as POST / to the function, at the alias named, and streams its answer. The function's answers carry Lambent-Status, errors of the platform do not.",
		RequestBody: &huma.RequestBody{Content: bytesOf("*/*")},
		Responses: map[string]*huma.Response{"200": {
			Description: "What the function answered, with its status and header",
			Content:     bytesOf("*/*"),
			Headers: map[string]*huma.Param{
				InvocationHeader: {Description: "id of the invocation", Schema: &huma.Schema{Type: huma.TypeString}},
				StatusHeader:     {Description: "status that the function gave", Schema: &huma.Schema{Type: huma.TypeInteger}},
			},
		}},
	}, s.invoke)
	register(s, huma.Operation{OperationID: "list-invocations", Security: needs(lambent.RoleDeploy), Method: http.MethodGet, Path: "/v1/invocations", Tags: tags,
		Summary: "List the latest invocations, the latest first"}, s.invocations)
	register(s, huma.Operation{OperationID: "get-invocation", Security: needs(lambent.RoleDeploy), Method: http.MethodGet, Path: "/v1/invocations/{id}", Tags: tags,
		Summary: "Get an invocation"}, s.invocation)
	register(s, huma.Operation{OperationID: "read-logs", Security: needs(lambent.RoleDeploy), Method: http.MethodGet, Path: functionPath + "/logs", Tags: []string{"logs"},
		Summary:   "Read what a function wrote",
		Responses: linesOf[lambent.LogLine](s, "One JSON object in a line for each line of log; a last one with error when reading failed"),
	}, s.logs)
}

func (s *server) invoke(_ context.Context, in *struct {
	Named
	Alias string `query:"alias" default:"latest"`
	Raw
}) (*huma.StreamResponse, error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	f, ok := s.Functions.Lookup(in.Namespace, in.Name)
	if !ok {
		return nil, in.unknown()
	}
	alias, rev := lambent.LatestAlias, f.Latest
	if in.Alias != lambent.LatestAlias {
		a, ok := s.Functions.Alias(in.Namespace, in.Name, in.Alias)
		if !ok {
			return nil, unknownAlias(in.Name, in.Alias)
		}
		alias, rev = a.Name, a.Pick(in.r.Header, "/")
	}
	body, end, err := inbound.Body(in.w, in.r, rev.Settings.MaxBody)
	if err != nil {
		return nil, err
	}
	inv := &lambent.Invocation{
		ID: lambent.NewID(), Alias: alias, Revision: rev, Trigger: lambent.TriggerInvoke, Accepted: time.Now(),
		Method: http.MethodPost, Target: "/", Host: in.r.Host, Header: passedOn(in.r.Header),
		ContentLength: in.r.ContentLength, Body: body, Trailer: in.r.Trailer,
	}
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		defer end()
		r, w := humago.Unwrap(ctx)
		w.Header().Set(InvocationHeader, inv.ID)
		resp, err := s.Invoker.Invoke(r.Context(), inv)
		if err != nil {
			e := *lambent.ErrorOf(err)
			if !principalOf(r.Context()).Allows(in.Namespace, lambent.RoleDeploy) {
				e.Trace = "" // for those who administer the function
			}
			lambent.WriteError(w, &e)
			return
		}
		answer(w, resp)
	}}, nil
}

// passedOn is what a function sees of the header of a call to the control API: never the key.
func passedOn(h http.Header) http.Header {
	out := make(http.Header)
	for _, name := range []string{"Accept", "Content-Type", "Content-Encoding", "Traceparent", "Tracestate"} {
		if v := h.Values(name); len(v) > 0 {
			out[name] = v
		}
	}
	return out
}

// answer streams resp. When it breaks off, so does the connection: a complete answer is the only kind that
// looks complete.
func answer(w http.ResponseWriter, resp *lambent.Response) {
	h := w.Header()
	id := h.Get(InvocationHeader)
	maps.Copy(h, resp.Header)
	h.Set(InvocationHeader, id)
	h.Set(StatusHeader, strconv.Itoa(resp.Status))
	if resp.ContentLength >= 0 {
		h.Set("Content-Length", strconv.FormatInt(resp.ContentLength, 10))
	}
	w.WriteHeader(resp.Status)
	err := stream(w, resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		panic(http.ErrAbortHandler)
	}
	for name, values := range resp.Trailer {
		h[http.TrailerPrefix+name] = values
	}
}

// stream copies src to w and holds nothing back.
func stream(w http.ResponseWriter, src io.Reader) error {
	rc := http.NewResponseController(w)
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
			if err := rc.Flush(); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// Invocations is a list of invocations.
type Invocations struct {
	Invocations []lambent.Record `json:"invocations" nullable:"false"`
}

type invocationsOutput struct{ Body Invocations }

func (s *server) invocations(ctx context.Context, in *struct {
	Namespace string `query:"namespace" doc:"only of this namespace; a key of one sees no other"`
	Function  string `query:"function"`
	Limit     int    `query:"limit" minimum:"1" maximum:"1000" default:"50"`
}) (*invocationsOutput, error) {
	namespace, err := scope(ctx, in.Namespace)
	if err != nil {
		return nil, err
	}
	records := s.Records.List(namespace, in.Function, in.Limit)
	return &invocationsOutput{Invocations{append([]lambent.Record{}, records...)}}, nil
}

type invocationOutput struct{ Body lambent.Record }

func (s *server) invocation(ctx context.Context, in *struct {
	ID string `path:"id"`
}) (*invocationOutput, error) {
	r, ok := s.Records.Get(in.ID)
	if !ok || !principalOf(ctx).Allows(r.Namespace, lambent.RoleDeploy) {
		return nil, lambent.Errorf(lambent.CodeNotFound, "there is no record of an invocation %s", in.ID).
			WithHint("only the latest are kept; see what there is: GET /v1/invocations")
	}
	return &invocationOutput{r}, nil
}

func (s *server) logs(ctx context.Context, in *struct {
	Named
	Tail       int       `query:"tail" minimum:"-1" default:"100" doc:"how many of the latest lines to begin with, -1 for all"`
	Follow     bool      `query:"follow" doc:"go on with new lines until the client leaves"`
	Invocation string    `query:"invocation" doc:"only lines of this invocation"`
	Since      time.Time `query:"since" doc:"only lines from then on"`
}) (*huma.StreamResponse, error) {
	if _, err := s.existing(ctx, in.Named); err != nil {
		return nil, err
	}
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		r, w := humago.Unwrap(ctx)
		writeLines(w, s.Logs.Read(r.Context(), LogQuery{
			Namespace: in.Namespace, Function: in.Name, Tail: in.Tail,
			Follow: in.Follow, Invocation: in.Invocation, Since: in.Since,
		}))
	}}, nil
}

// linesOf documents an answer of lines, each a T in JSON.
func linesOf[T any](s *server, description string) map[string]*huma.Response {
	t := reflect.TypeFor[T]()
	return map[string]*huma.Response{"200": {
		Description: description,
		Content:     map[string]*huma.MediaType{"application/x-ndjson": {Schema: s.api.OpenAPI().Components.Schemas.Schema(t, true, t.Name())}},
	}}
}

// writeLines streams lines as they come. The header goes out at once, so that a client that follows what is
// silent knows that it is heard.
func writeLines[T any](w http.ResponseWriter, lines iter.Seq2[T, error]) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	rc := http.NewResponseController(w)
	if err := rc.Flush(); err != nil {
		return
	}
	enc := json.NewEncoder(w)
	for line, err := range lines {
		if err != nil {
			_ = enc.Encode(failure{lambent.ErrorOf(err)}) // the last thing that is said, heard or not
			return
		}
		if errors.Join(enc.Encode(line), rc.Flush()) != nil {
			return // the client left
		}
	}
}
