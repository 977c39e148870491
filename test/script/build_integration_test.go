//go:build integration

package script

import "testing"

// TestIntegrationScripts deploys what has dependencies.
func TestIntegrationScripts(t *testing.T) { run(t, "integration") }
