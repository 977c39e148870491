package cli

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"lambent"
	"lambent/internal/durable"
)

const defaultURL = "http://127.0.0.1:8081"

// contextFile says where the platform is that commands speak to.
type contextFile struct {
	URL     string `json:"url"`
	KeyFile string `json:"key_file"`
	CAFile  string `json:"ca_file,omitempty"`
}

func contextPath() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", lambent.Errorf(lambent.CodeInvalidRequest, "there is no place for the CLI's context: %w", err).
			WithHint("set XDG_CONFIG_HOME or HOME")
	}
	return filepath.Join(dir, "lambent", "context.json"), nil
}

// WriteContext makes later commands of this user speak to the control API at url with the key in keyFile,
// and trust in the certificates in caFile, too, unless that is "".
// It gives the path of what it wrote, which appears there whole or not at all.
func WriteContext(url, keyFile, caFile string) (path string, err error) {
	if path, err = contextPath(); err != nil {
		return "", err
	}
	if keyFile, err = filepath.Abs(keyFile); err != nil {
		return "", err
	}
	raw, err := json.MarshalIndent(contextFile{url, keyFile, caFile}, "", "  ")
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	return path, durable.WriteFile(path, append(raw, '\n'), 0o600)
}

// endpoint is where commands send their requests.
type endpoint struct {
	url, key string
	ca       string // file of certificates to trust in beside the machine's, or ""
}

// target gives the endpoint to use: LAMBENT_URL, LAMBENT_KEY and LAMBENT_CA, then the context. The key of the
// context is for its own URL only: another server must not get to see it.
func target() (endpoint, error) {
	e := endpoint{os.Getenv("LAMBENT_URL"), os.Getenv("LAMBENT_KEY"), os.Getenv("LAMBENT_CA")}
	if e.url != "" && e.key != "" {
		return e, nil
	}
	c, err := readContext()
	if err != nil {
		return e, err
	}
	if e.url == "" {
		e.url = c.URL
	}
	if strings.TrimSuffix(e.url, "/") != strings.TrimSuffix(c.URL, "/") {
		return e, nil
	}
	if e.ca == "" {
		e.ca = c.CAFile
	}
	if e.key != "" || c.KeyFile == "" {
		return e, nil
	}
	raw, err := os.ReadFile(c.KeyFile)
	if err != nil {
		return e, lambent.Errorf(lambent.CodeForbidden, "cannot read the key: %w", err).
			WithHint("run as the user that runs `lambent up`, or set LAMBENT_KEY")
	}
	e.key = strings.TrimSpace(string(raw))
	return e, nil
}

func readContext() (contextFile, error) {
	c := contextFile{URL: defaultURL}
	path, err := contextPath()
	if err != nil {
		return c, nil // without a home there is no context either
	}
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &c)
	}
	if err != nil {
		return c, lambent.Errorf(lambent.CodeInvalidRequest, "cannot read the context %s: %w", path, err).
			WithHint("remove it; `lambent up` writes it again")
	}
	return c, nil
}
