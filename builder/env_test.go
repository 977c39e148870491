package builder

import (
	"maps"
	"slices"
	"testing"
)

func TestEnvironment(t *testing.T) {
	env, refused := Environment([]string{
		"PATH=/bin", "LAMBENT_KEY=lk_secret", "AWS_SECRET_ACCESS_KEY=x", "NPM_TOKEN=x", "GOFLAGS=-toolexec=x", "GOPROXY=https://a.invalid,direct",
		"PIP_INDEX_URL=https://pip.invalid/simple", "UV_DEFAULT_INDEX=https://uv.invalid/simple", "GOSUMDB=off", "GONOSUMDB=",
		"UV_INDEX=own=https://user:word@b.invalid/simple", "npm_config_registry=https://token@c.invalid",
	})
	delete(env, "SSL_CERT_FILE")
	delete(env, "NODE_EXTRA_CA_CERTS")
	want := map[string]string{"GOPROXY": "https://a.invalid,direct", "UV_DEFAULT_INDEX": "https://uv.invalid/simple", "GOSUMDB": "off"}
	if !maps.Equal(env, want) {
		t.Errorf("env %v", env)
	}
	if slices.Sort(refused); !slices.Equal(refused, []string{"UV_INDEX", "npm_config_registry"}) {
		t.Errorf("refused %v", refused)
	}
}
