package control

import (
	"context"
	"iter"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"lambent"
)

// Events keeps what happened to this node and its instances.
type Events interface {
	// Read gives the latest events in their order, and with Follow goes on with new ones until the context ends.
	Read(ctx context.Context, q EventQuery) iter.Seq2[lambent.SystemEvent, error]
}

// EventQuery says which events to read. Each field but Limit and Follow leaves out what is different, unless it is empty.
type EventQuery struct {
	Namespace, Function string
	Kind                lambent.EventKind // or what stands before the dot of several
	Since               time.Time
	Limit               int // how many of the latest to begin with
	Follow              bool
}

func (s *server) eventRoutes() {
	register(s, huma.Operation{OperationID: "read-system-events", Security: needs(lambent.RoleDeploy), Method: http.MethodGet, Path: "/v1/system/events", Tags: []string{"system"},
		Summary:     "Read what happened to this node and its instances",
		Description: "In their order. A key of a namespace sees what happened to its functions, the node's admin key everything.",
		Responses:   linesOf[lambent.SystemEvent](s, "One JSON object in a line for each event; a last one with error when reading failed"),
	}, s.systemEvents)
}

func (s *server) systemEvents(ctx context.Context, in *struct {
	Namespace string            `query:"namespace" doc:"only of this namespace; a key of one sees no other"`
	Function  string            `query:"function"`
	Kind      lambent.EventKind `query:"kind" doc:"a kind, or what stands before the dot of several: instance"`
	Since     time.Time         `query:"since" doc:"only events from then on"`
	Limit     int               `query:"limit" minimum:"0" maximum:"10000" default:"100" doc:"how many of the latest to begin with"`
	Follow    bool              `query:"follow" doc:"go on with new events until the client leaves"`
}) (*huma.StreamResponse, error) {
	namespace, err := scope(ctx, in.Namespace)
	if err != nil {
		return nil, err
	}
	if err := checkKind(in.Kind); err != nil {
		return nil, err
	}
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		r, w := humago.Unwrap(ctx)
		writeLines(w, s.Events.Read(r.Context(), EventQuery{
			Namespace: namespace, Function: in.Function, Kind: in.Kind, Since: in.Since, Limit: in.Limit, Follow: in.Follow,
		}))
	}}, nil
}

func checkKind(kind lambent.EventKind) error {
	known := kind == "" || slices.ContainsFunc(lambent.EventKinds, func(k lambent.EventKind) bool {
		return k == kind || strings.HasPrefix(string(k), string(kind)+".")
	})
	if known {
		return nil
	}
	var names []string
	for _, k := range lambent.EventKinds {
		names = append(names, string(k))
	}
	return lambent.Errorf(lambent.CodeInvalidRequest, "query.kind: there are no events of the kind %q", kind).
		WithHint("use one of %s, or what stands before the dot", strings.Join(names, ", "))
}
