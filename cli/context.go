package cli

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"lambent"
)

const defaultURL = "http://127.0.0.1:8081"

// contextFile says where the platform is that commands speak to.
type contextFile struct {
	URL     string `json:"url"`
	KeyFile string `json:"key_file"`
}

func contextPath() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", lambent.Errorf(lambent.CodeInvalidRequest, "there is no place for the CLI's context: %w", err).
			WithHint("set XDG_CONFIG_HOME or HOME")
	}
	return filepath.Join(dir, "lambent", "context.json"), nil
}

// WriteContext makes later commands of this user speak to the control API at url with the key in keyFile.
// It gives the path of what it wrote, which appears there whole or not at all.
func WriteContext(url, keyFile string) (path string, err error) {
	if path, err = contextPath(); err != nil {
		return "", err
	}
	if keyFile, err = filepath.Abs(keyFile); err != nil {
		return "", err
	}
	raw, err := json.MarshalIndent(contextFile{url, keyFile}, "", "  ")
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".context-*")
	if err != nil {
		return "", err
	}
	_, err = f.Write(append(raw, '\n'))
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return path, nil
}

// endpoint gives the URL and key to use: LAMBENT_URL and LAMBENT_KEY, then the context. The key of the
// context is for its own URL only: another server must not get to see it.
func endpoint() (url, key string, err error) {
	url, key = os.Getenv("LAMBENT_URL"), os.Getenv("LAMBENT_KEY")
	if url != "" && key != "" {
		return url, key, nil
	}
	c, err := readContext()
	if err != nil {
		return "", "", err
	}
	if url == "" {
		url = c.URL
	}
	if key != "" || c.KeyFile == "" || strings.TrimSuffix(url, "/") != strings.TrimSuffix(c.URL, "/") {
		return url, key, nil
	}
	raw, err := os.ReadFile(c.KeyFile)
	if err != nil {
		return "", "", lambent.Errorf(lambent.CodeForbidden, "cannot read the key: %w", err).
			WithHint("run as the user that runs `lambent up`, or set LAMBENT_KEY")
	}
	return url, strings.TrimSpace(string(raw)), nil
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
