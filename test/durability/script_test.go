package durability

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"lambent"
	"lambent/client"
)

// step is a request that changes one thing. What it returns without an error is acknowledged.
type step struct {
	name string
	do   func(ctx context.Context, n *node) error
}

const greet = `
import os
def handler(event, context):
    print("called")
    return {"statusCode": 200, "body": %q + " " + os.environ["TOKEN"]}
`

func deploy(version string) func(context.Context, *node) error {
	return func(ctx context.Context, n *node) error {
		return n.python(ctx, "greet", fmt.Sprintf(greet, version), func(s *lambent.Settings) { s.Secrets = map[string]string{"TOKEN": "token"} })
	}
}

// script is a bit of everything that a node keeps.
var script = []step{
	{"secret set", func(ctx context.Context, n *node) error {
		_, err := n.client.SetSecret(ctx, "default", "token", strings.NewReader("first value"))
		return err
	}},
	{"deploy", deploy("one")},
	{"publish", func(ctx context.Context, n *node) error {
		_, err := n.client.Publish(ctx, "default", "greet", "")
		return err
	}},
	{"alias set", func(ctx context.Context, n *node) error {
		_, err := n.client.SetAlias(ctx, client.SetAlias{Namespace: "default", Function: "greet", Name: "prod",
			Targets: []lambent.Weight{{Revision: "1", Weight: 100}}})
		return err
	}},
	{"key create", func(ctx context.Context, n *node) error {
		_, err := n.client.CreateKey(ctx, "default", "ci", lambent.RoleDeploy)
		return err
	}},
	{"route set", func(ctx context.Context, n *node) error {
		_, err := n.client.SetRoute(ctx, client.SetRoute{Namespace: "default", Name: "r",
			Spec: lambent.RouteSpec{Path: "/hello", Function: "greet"}})
		return err
	}},
	{"invoke", func(ctx context.Context, n *node) error {
		status, body, err := n.call(ctx, "/fn/greet")
		if err == nil && (status != 200 || !strings.HasPrefix(body, "one ")) {
			err = fmt.Errorf("answer %d %s", status, body)
		}
		return err
	}},
	{"secret rotate", func(ctx context.Context, n *node) error {
		_, err := n.client.RotateSecrets(ctx)
		return err
	}},
	{"secret set again", func(ctx context.Context, n *node) error {
		_, err := n.client.SetSecret(ctx, "default", "token", strings.NewReader("second value"))
		return err
	}},
	{"deploy again", deploy("two")},
	{"route rm", func(ctx context.Context, n *node) error { return n.client.DeleteRoute(ctx, "default", "r", 0) }},
	{"key rm", func(ctx context.Context, n *node) error { return n.client.DeleteKey(ctx, "default", "ci") }},
}

// observe gives all that a node acknowledges, as text that is the same for two nodes with the same history.
func observe(t *testing.T, n *node) string {
	t.Helper()
	var b strings.Builder
	ctx := t.Context()
	secrets, err := n.client.Secrets(ctx, "default")
	check(t, err)
	for _, s := range secrets {
		fmt.Fprintln(&b, "secret", s.Name, "version", s.Version)
	}
	for f, err := range n.client.Functions(ctx, "default") {
		check(t, err)
		fmt.Fprintln(&b, "function", f.Name, f.Latest.Code)
		aliases, err := n.client.Aliases(ctx, "default", f.Name)
		check(t, err)
		for _, a := range aliases {
			fmt.Fprintln(&b, "alias", a.Name, a.Weights())
		}
	}
	keys, err := n.client.Keys(ctx, "default")
	check(t, err)
	for _, k := range keys {
		fmt.Fprintln(&b, "key", k.Name, k.Role)
	}
	routes, err := n.client.Routes(ctx, "default")
	check(t, err)
	for _, r := range routes {
		fmt.Fprintln(&b, "route", r.Name, r.Path)
	}
	if strings.Contains(b.String(), "function greet") { // the code is whole, and the secret can be opened
		status, body, err := n.call(ctx, "/fn/greet")
		check(t, err)
		fmt.Fprintln(&b, status, body)
	}
	return b.String()
}
