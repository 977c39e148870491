package code

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Hold keeps a bundle from being removed until release is called, which counts as a use of it. ok is false where there
// is none, and then there is nothing to release.
func (s *Store) Hold(digest string) (release func(), ok bool) {
	release = s.hold(digest)
	if !s.Has(digest) {
		release()
		return nil, false
	}
	return release, true
}

func (s *Store) hold(digest string) (release func()) {
	s.holding.Lock()
	s.held[digest]++
	s.holding.Unlock()
	return func() {
		s.holding.Lock()
		defer s.holding.Unlock()
		if s.held[digest]--; s.held[digest] == 0 {
			delete(s.held, digest)
		}
		if digestRE.MatchString(digest) {
			now := time.Now()
			_ = os.Chtimes(s.bundlePath(digest), now, now) // it is missing where Hold gives false
		}
	}
}

// Unused gives the digests of the bundles that nobody has held or put since, and of trees whose bundle is gone.
func (s *Store) Unused(since time.Time) (digests []string, err error) {
	for _, dir := range []string{s.bundles, s.trees} {
		found, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, d := range found {
			digest := "sha256:" + strings.TrimSuffix(d.Name(), ".tar")
			listed := dir == s.trees && s.Has(digest)
			if digestRE.MatchString(digest) && !listed && s.unused(digest, since) {
				digests = append(digests, digest)
			}
		}
	}
	return digests, nil
}

// unused tells whether a digest was not held or put since. The bundle's time tells, or the tree's where it is alone.
func (s *Store) unused(digest string, since time.Time) bool {
	info, err := os.Stat(s.bundlePath(digest))
	if errors.Is(err, os.ErrNotExist) {
		info, err = os.Stat(s.treePath(digest))
	}
	return err == nil && info.ModTime().Before(since)
}

// Remove removes the bundle of a digest and its tree, and tells whether it did: not if somebody holds it, has held or
// put it since, or if there is none.
func (s *Store) Remove(digest string, since time.Time) (bool, error) {
	if !digestRE.MatchString(digest) {
		return false, nil
	}
	graves, err := s.bury(digest, since)
	for _, grave := range graves {
		err = errors.Join(err, os.RemoveAll(grave))
	}
	return len(graves) > 0, err
}

// bury takes the names away, the slow rest is done elsewhere: a tree is whole or not there. It needs no room on the disk.
func (s *Store) bury(digest string, since time.Time) (graves []string, err error) {
	s.holding.Lock()
	defer s.holding.Unlock()
	if s.held[digest] > 0 || !s.unused(digest, since) {
		return nil, nil
	}
	for _, path := range []string{s.bundlePath(digest), s.treePath(digest)} {
		grave := filepath.Join(s.tmp, fmt.Sprintf("%sremoved-%d-%s", s.mine, time.Now().UnixNano(), filepath.Base(path)))
		if err := os.Rename(path, grave); err == nil {
			graves = append(graves, grave)
		} else if !errors.Is(err, os.ErrNotExist) {
			return graves, err
		}
	}
	return graves, nil
}
