package builder

import (
	"net/url"
	"os"
	"strings"
)

// AnyHost is what builds may connect to unless the operator narrows it: package registries are many, and their files
// are on yet other hosts. Addresses that the node refuses to everybody stay refused.
var AnyHost = []string{"*:443", "*:80"}

// registries are the settings of an operator that say where packages come from, and what they are called for the tools.
var registries = map[string]string{
	"PIP_INDEX_URL": "UV_DEFAULT_INDEX", "UV_DEFAULT_INDEX": "UV_DEFAULT_INDEX", "UV_INDEX": "UV_INDEX",
	"npm_config_registry": "npm_config_registry", "NPM_CONFIG_REGISTRY": "npm_config_registry",
	"GOPROXY": "GOPROXY", "GOSUMDB": "GOSUMDB", "GONOSUMDB": "GONOSUMDB",
}

// certificates is the bundle of the node's certificate authorities, which sandboxes see.
const certificates = "/etc/ssl/certs/ca-certificates.crt"

// Environment gives what tools need to know of the node: its certificate authorities, and out of environ, the
// daemon's own environment, where packages come from. Settings that carry a password are left out, because builds
// run the code of strangers; refused names them.
func Environment(environ []string) (env map[string]string, refused []string) {
	env = map[string]string{}
	if _, err := os.Stat(certificates); err == nil {
		env["SSL_CERT_FILE"], env["NODE_EXTRA_CA_CERTS"] = certificates, certificates
	}
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		tools, ok := registries[name]
		switch {
		case !ok || value == "" || env[tools] != "" && name != tools:
		case hasPassword(value):
			refused = append(refused, name)
		default:
			env[tools] = value
		}
	}
	return env, refused
}

// hasPassword tells whether one of the URLs, which may be several, names a user.
func hasPassword(value string) bool {
	for part := range strings.FieldsFuncSeq(value, func(r rune) bool { return strings.ContainsRune(" ,|", r) }) {
		if i := strings.Index(part, "=http"); i >= 0 { // uv's NAME=URL
			part = part[i+1:]
		}
		u, err := url.Parse(part)
		if err != nil || u.User != nil {
			return true
		}
	}
	return false
}
