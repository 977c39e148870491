package control

import (
	"context"
	"net/http"
	"runtime"

	"github.com/danielgtaylor/huma/v2"

	"lambent"
)

func (s *server) systemRoutes() {
	register(s, huma.Operation{OperationID: "get-system", Security: needs(lambent.RoleDeploy), Method: http.MethodGet, Path: "/v1/system", Tags: []string{"system"},
		Summary: "Get what this node is and can do"}, s.system)
}

// System is what this node is and can do.
type System struct {
	Version   string            `json:"version"`
	Arch      string            `json:"arch" doc:"what Go calls it: amd64, arm64"`
	Functions string            `json:"functions" doc:"URL of the functions listener"`
	Public    bool              `json:"public" doc:"functions that say no auth are open to everybody"`
	Runtimes  []string          `json:"runtimes" nullable:"false"`
	Findings  []lambent.Finding `json:"findings" nullable:"false" doc:"for the node's admin key only"`
}

type systemOutput struct{ Body System }

func (s *server) system(ctx context.Context, _ *struct{}) (*systemOutput, error) {
	findings := []lambent.Finding{}
	if principalOf(ctx).Allows("", lambent.RoleAdmin) {
		findings = append(findings, s.Findings()...)
	}
	return &systemOutput{System{
		Version:   s.Version,
		Arch:      runtime.GOARCH,
		Functions: s.Endpoint(),
		Public:    s.Public,
		Runtimes:  append([]string{}, s.Executor.Runtimes()...),
		Findings:  findings,
	}}, nil
}
