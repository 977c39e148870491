//go:build !lambent_embed

package process

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// initProgram builds lambent-init from source, once in the life of a process. It is for tests and "go run":
// releases are built with the tag lambent_embed and carry it.
var initProgram = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "lambent-init-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "lambent-init")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", file, "lambent/cmd/lambent-init")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build lambent-init (a release carries it, see the build tag lambent_embed): %w: %s", err, out)
	}
	return os.ReadFile(file)
})
