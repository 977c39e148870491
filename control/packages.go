package control

import (
	"archive/tar"
	"encoding/json"
	"io"
	"regexp"
	"slices"
	"strings"
)

const maxManifest = 1 << 20

var (
	// distInfoRE finds the folder of an installed Python package, see PyPA's "Recording installed projects".
	distInfoRE = regexp.MustCompile(`(?:^|/)([^/-]+)-([^/-]+)\.dist-info/METADATA$`)
	// modulesRE finds the package.json of an installed Node.js package.
	modulesRE = regexp.MustCompile(`(?:^|/)node_modules/((?:@[^/]+/)?[^/]+)/package\.json$`)
	// requireRE finds what a go.mod requires: a program tells it too, but its format is no reading matter for a
	// server that does not trust it.
	requireRE = regexp.MustCompile(`(?m)^\s*(?:require\s+)?([a-z0-9][^\s()]*\.[^\s()]*)\s+(v[0-9]\S*)`)
)

// packages are the versions of what a bundle brings along, by name.
type packages map[string][]string

func (p packages) add(name, version string) {
	if version != "" && !slices.Contains(p[name], version) {
		p[name] = append(p[name], version)
	}
}

// look takes in a file of a bundle. What it does not understand is no package; errors are those of the reader.
func (p packages) look(header *tar.Header, content io.Reader) error {
	if m := distInfoRE.FindStringSubmatch(header.Name); m != nil {
		p.add(strings.ReplaceAll(m[1], "_", "-"), m[2])
		return nil
	}
	if m := modulesRE.FindStringSubmatch(header.Name); m != nil && header.Size <= maxManifest {
		raw, err := io.ReadAll(content)
		var about struct {
			Version string `json:"version"`
		}
		if json.Unmarshal(raw, &about) == nil {
			p.add(m[1], about.Version)
		}
		return err
	}
	if header.Name == "go.mod" && header.Size <= maxManifest {
		raw, err := io.ReadAll(content)
		for _, m := range requireRE.FindAllSubmatch(raw, -1) {
			p.add(string(m[1]), string(m[2]))
		}
		return err
	}
	return nil
}

func (p packages) versions() map[string]string {
	all := make(map[string]string, len(p))
	for name := range p {
		slices.Sort(p[name])
		all[name] = strings.Join(p[name], ", ")
	}
	return all
}
