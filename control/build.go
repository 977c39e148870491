package control

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
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
		Responses:   linesOf[BuildLine](s, "One JSON object in a line for each line that the tools write; the last has built, or error"),
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
		if release, ok := s.Code.Hold(b.Source); ok {
			defer release()
		}
		r, w := humago.Unwrap(h)
		w.Header().Set("Content-Type", "application/x-ndjson")
		h.SetStatus(http.StatusOK)
		enc, flush := json.NewEncoder(w), http.NewResponseController(w).Flush
		write := func(line BuildLine) { // a client that has left has nobody to tell, and its context ends the build
			if enc.Encode(line) == nil {
				_ = flush()
			}
		}
		said := newOutbox()
		var writer sync.WaitGroup
		writer.Go(func() {
			for line := range said.all() {
				write(BuildLine{Log: &line})
			}
		})
		built, err := s.Build(r.Context(), in.Namespace, b, said.put)
		said.close()
		writer.Wait()
		if err == nil {
			err = s.own(r.Context(), built.Code)
		}
		if err != nil {
			write(BuildLine{Error: s.fault(*h.Operation(), err)})
			return
		}
		write(BuildLine{Built: built})
	}}, nil
}

// maxOutbox is in bytes, each line counted as lineCost more.
const maxOutbox, lineCost = 1 << 20, 64

// outbox keeps what a build says until the client takes it. A build does not wait for a client: it has a slot of the
// node. What is too much is left out.
type outbox struct {
	mu      sync.Mutex
	changed *sync.Cond
	lines   []string
	room    int
	left    int // out, since the last line
	closed  bool
}

func newOutbox() *outbox {
	o := &outbox{room: maxOutbox}
	o.changed = sync.NewCond(&o.mu)
	return o
}

func (o *outbox) put(line string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.room < len(line)+lineCost {
		o.left++
		return
	}
	o.tellLeft()
	o.room -= len(line) + lineCost
	o.lines = append(o.lines, line)
	o.changed.Signal()
}

// tellLeft is for the holder of o.mu.
func (o *outbox) tellLeft() {
	if o.left > 0 {
		o.lines = append(o.lines, fmt.Sprintf("(%d lines left out, they came faster than they were read)", o.left))
		o.left = 0
	}
}

func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tellLeft()
	o.closed = true
	o.changed.Signal()
}

// all gives the lines as they come, until the outbox is closed.
func (o *outbox) all() iter.Seq[string] {
	return func(yield func(string) bool) {
		for {
			lines := o.take()
			if len(lines) == 0 {
				return
			}
			for _, line := range lines {
				if !yield(line) {
					return
				}
			}
		}
	}
}

// take waits for lines; it gives none when it is closed and empty.
func (o *outbox) take() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.lines) == 0 && !o.closed {
		o.changed.Wait()
	}
	lines := o.lines
	o.lines, o.room = nil, maxOutbox
	return lines
}
