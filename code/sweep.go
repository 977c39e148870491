package code

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Sweep removes the bundles and trees that are older than olderThan and not live, and gives the number of
// what it removed. A caller that makes a digest live after a Put must do so within olderThan.
func (s *Store) Sweep(live func(digest string) bool, olderThan time.Duration) (removed int, err error) {
	before := time.Now().Add(-olderThan)
	for _, dir := range []string{s.trees, s.bundles} {
		found, err := os.ReadDir(dir)
		if err != nil {
			return removed, err
		}
		for _, d := range found {
			digest := "sha256:" + strings.TrimSuffix(d.Name(), ".tar")
			if live(digest) {
				continue
			}
			info, err := d.Info()
			if errors.Is(err, os.ErrNotExist) || err == nil && !info.ModTime().Before(before) {
				continue
			}
			if err == nil {
				err = s.remove(filepath.Join(dir, d.Name()))
			}
			if err != nil {
				return removed, err
			}
			s.opts.Logger.Info("removed code that nothing refers to", "path", filepath.Join(dir, d.Name()))
			removed++
		}
	}
	return removed, nil
}

// remove takes the name away first: a tree is whole or not there.
func (s *Store) remove(path string) error {
	grave, err := os.MkdirTemp(s.tmp, "removed-")
	if err != nil {
		return err
	}
	if err := os.Rename(path, filepath.Join(grave, filepath.Base(path))); err != nil {
		return errors.Join(err, os.Remove(grave))
	}
	return os.RemoveAll(grave)
}
