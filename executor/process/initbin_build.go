//go:build !lambent_embed

package process

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// initProgram and execProgram build what runs in sandboxes from source, once in the life of a process. They are for
// tests and "go run": releases are built with the tag lambent_embed and carry it.
var (
	initProgram = sync.OnceValues(func() ([]byte, error) { return build("lambent-init") })
	execProgram = sync.OnceValues(func() ([]byte, error) { return build("lambent-exec") })
)

// builtEnv names a folder where they are as built, for a user who cannot build them.
const builtEnv = "LAMBENT_INITBIN"

func build(name string) ([]byte, error) {
	if built := os.Getenv(builtEnv); built != "" {
		return os.ReadFile(filepath.Join(built, name))
	}
	dir, err := os.MkdirTemp("", name+"-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, name)
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", file, "lambent/cmd/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build %s (a release carries it, see the build tag lambent_embed): %w: %s", name, err, out)
	}
	return os.ReadFile(file)
}
