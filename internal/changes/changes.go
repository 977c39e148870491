// Package changes tells when the files below a directory change.
package changes

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Of gives the path of a file below dir, one of perhaps many, each time when files were written, made, renamed or
// removed and then nothing happened for the time quiet: editors and tools change several at once. Directories that
// skip names, by their base name, are not looked into. It ends with ctx, or with an error when the system cannot
// watch.
func Of(ctx context.Context, dir string, quiet time.Duration, skip func(name string) bool) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		w, err := fsnotify.NewWatcher()
		if err != nil {
			yield("", err)
			return
		}
		defer func() { _ = w.Close() }() // nothing was written
		if err := watch(w, dir, skip); err != nil {
			yield("", err)
			return
		}
		var changed string
		settled := time.NewTimer(quiet)
		settled.Stop()
		defer settled.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case err := <-w.Errors:
				if !yield("", err) || !errors.Is(err, fsnotify.ErrEventOverflow) {
					return
				}
			case ev := <-w.Events:
				if ev.Op == fsnotify.Chmod || skip(filepath.Base(ev.Name)) {
					continue
				}
				if ev.Has(fsnotify.Create) {
					if err := watch(w, ev.Name, skip); err != nil && !yield("", err) {
						return
					}
				}
				changed = ev.Name
				settled.Reset(quiet)
			case <-settled.C:
				if !yield(changed, nil) {
					return
				}
			}
		}
	}
}

// watch adds path and the directories below it; what is no directory, or is gone again, is none of its business.
func watch(w *fsnotify.Watcher, path string, skip func(string) bool) error {
	return filepath.WalkDir(path, func(at string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, os.ErrNotExist):
			return nil
		case err != nil:
			return err
		case !entry.IsDir():
			return nil
		case at != path && skip(entry.Name()):
			return filepath.SkipDir
		}
		if err := w.Add(at); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	})
}
