package process

import (
	"strings"

	"lambent/executor"
	"lambent/internal/sandbox"
)

// secretsOf gives the secrets of spec as lambent-init takes them.
func secretsOf(spec executor.Spec) sandbox.Secrets {
	s := sandbox.Secrets{Env: map[string][]byte{}, Files: map[string][]byte{}}
	for target, value := range spec.Secrets {
		if name, ok := strings.CutPrefix(target, sandbox.SecretsDir+"/"); ok {
			s.Files[name] = []byte(value)
		} else {
			s.Env[target] = []byte(value)
		}
	}
	return s
}
