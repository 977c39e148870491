package wasm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"lambent"
	"lambent/executor/wasm/internal/artefact"
	"lambent/internal/durable"
)

// store keeps artefacts: dir/<namespace>/<version>-<key>, written whole and never changed. The folder "of" in each has an
// empty file for every code bundle that it was used with: it is garbage when all of those are gone.
type store struct {
	dir     string
	version string // of the artefacts that this program makes
	// compile makes the artefact of a module in the empty folder to. It syncs nothing.
	compile func(ctx context.Context, m source, to string) error
	turns   int // how many artefacts are made at a time, of all namespaces; 0: one
	log     *slog.Logger

	all    chan struct{}   // holds the turns that are taken
	ctx    context.Context // ends with close
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu      sync.Mutex
	making  map[string]*making        // by path; guarded by mu
	of      map[string]chan struct{}  // the turns that are taken, by namespace; guarded by mu
	refused map[string]*lambent.Error // modules that cannot run here, by path, maxRefused at most; guarded by mu
}

// source is a module as a revision has it.
type source struct {
	namespace string
	code      string // digest of the bundle
	dir       string // the bundle
	name      string // of the module in it
	digest    [sha256.Size]byte
	warmup    string
	memory    int64 // bytes that the module may have, compile.MaxMemory at most: what it does at its start depends on it
}

// making is an artefact that is being made.
type making struct {
	done chan struct{}
	err  error // set before done is closed
}

const (
	ofDir       = "of"
	tmpPrefix   = ".tmp-"
	maxRefused  = 1000
	compileTime = 5 * time.Minute
)

// open opens a store whose first fields are set.
func (s *store) open() error {
	s.turns = max(s.turns, 1)
	s.making, s.refused, s.of = map[string]*making{}, map[string]*lambent.Error{}, map[string]chan struct{}{}
	s.all = make(chan struct{}, s.turns)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return durable.MkdirAll(s.dir, 0o700)
}

// close ends what is being made.
func (s *store) close() {
	s.cancel()
	s.work.Wait()
}

// path is where the artefact of a module is.
func (s *store) path(m source) string {
	key := sha256.Sum256(fmt.Appendf(m.digest[:], "%d %s", m.memory, m.warmup))
	return filepath.Join(s.dir, m.namespace, s.prefix()+hex.EncodeToString(key[:16]))
}

func (s *store) prefix() string {
	sum := sha256.Sum256([]byte(s.version))
	return hex.EncodeToString(sum[:8]) + "-"
}

// get gives the open files of the artefact of a module, which it makes where it is not there. Who waits for it leaves with ctx; it is made all the same, for the next who asks.
func (s *store) get(ctx context.Context, m source) (*artefact.Files, error) {
	path := s.path(m)
	for range 3 { // it may be removed as garbage as soon as it is there
		files, err := s.use(path, m.code)
		if !errors.Is(err, fs.ErrNotExist) {
			return files, err
		}
		making, err := s.make(path, m)
		if err != nil {
			return nil, err
		}
		select {
		case <-making.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if making.err != nil {
			return nil, making.err
		}
	}
	return nil, fmt.Errorf("%s is gone as soon as it is made", path)
}

// use marks the artefact as used with a code bundle, and opens it.
func (s *store) use(path, code string) (*artefact.Files, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	mark := filepath.Join(path, ofDir, markOf(code))
	if _, err := os.Lstat(mark); err != nil {
		if err := os.WriteFile(mark, nil, 0o600); errors.Is(err, fs.ErrNotExist) {
			return nil, err
		} else if err != nil { // it is there all the same, and would be made again
			s.log.Warn("an artefact may be removed while it is used", "err", err)
		}
	}
	return artefact.Open(path)
}

func markOf(code string) string { return strings.TrimPrefix(code, "sha256:") }

// make begins to make an artefact, unless that is under way.
func (s *store) make(path string, m source) (*making, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refused[path]; err != nil {
		return nil, err
	}
	now := s.making[path]
	switch {
	case now != nil:
		return now, nil
	case s.ctx.Err() != nil:
		return nil, errStopping()
	}
	now = &making{done: make(chan struct{})}
	s.making[path] = now
	s.work.Go(func() {
		end, err := s.turn(m.namespace)
		if now.err = err; err == nil {
			now.err = s.write(path, m)
			end()
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.making, path)
		if e := lambent.ErrorOf(now.err); e != nil && e.Fault == lambent.FaultClient && s.ctx.Err() == nil {
			if len(s.refused) >= maxRefused {
				clear(s.refused)
			}
			s.refused[path] = e
		}
		close(now.done)
	})
	return now, nil
}

// turn waits for its turn to make an artefact, and gives what to call at its end. Half of the turns are as many as a
// namespace may have, or have wait for one of all: so however many modules the others have, they do not shut it out.
func (s *store) turn(namespace string) (end func(), err error) {
	s.mu.Lock()
	own := s.of[namespace]
	if own == nil {
		own = make(chan struct{}, (s.turns+1)/2)
		s.of[namespace] = own
	}
	s.mu.Unlock()
	for _, turns := range []chan struct{}{own, s.all} {
		select {
		case turns <- struct{}{}:
		case <-s.ctx.Done():
			return nil, errStopping()
		}
	}
	return func() { <-s.all; <-own }, nil
}

// write makes an artefact under another name first.
func (s *store) write(path string, m source) (err error) {
	ctx, cancel := context.WithTimeout(s.ctx, compileTime)
	defer cancel()
	parent := filepath.Dir(path)
	if err := durable.MkdirAll(parent, 0o700); err != nil {
		return err
	}
	temp, err := os.MkdirTemp(parent, tmpPrefix)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(temp))
		}
	}()
	began := time.Now()
	if err := s.compile(ctx, m, temp); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(temp, ofDir), 0o700); err != nil {
		return err
	}
	if err := syncAll(temp); err != nil {
		return err
	}
	err = durable.Rename(temp, path)
	if errors.Is(err, fs.ErrExist) { // another process of this node was faster
		return os.RemoveAll(temp)
	}
	s.log.Debug("made the artefact of a module", "namespace", m.namespace, "module", m.name, "took", time.Since(began))
	return err
}

// syncAll brings the files of a folder, and their names, onto the disk.
func syncAll(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return durable.SyncDir(dir)
}

// empty tells whether no artefact is there that this program can use.
func (s *store) empty() bool {
	found, err := filepath.Glob(filepath.Join(s.dir, "*", s.prefix()+"*"))
	return err == nil && len(found) == 0
}

// collect removes the artefacts of other programs, those of bundles that are all gone, and what has not been finished
// for longer than making takes.
func (s *store) collect(has func(code string) bool) error {
	found, err := filepath.Glob(filepath.Join(s.dir, "*", "*"))
	if err != nil {
		return err
	}
	unfinished, err := filepath.Glob(filepath.Join(s.dir, "*", tmpPrefix+"*"))
	errs := []error{err}
	for _, path := range unfinished {
		if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > 2*compileTime {
			errs = append(errs, os.RemoveAll(path))
		}
	}
	for _, path := range found {
		if !strings.HasPrefix(filepath.Base(path), tmpPrefix) {
			errs = append(errs, s.collectOne(path, has))
		}
	}
	return errors.Join(errs...)
}

func (s *store) collectOne(path string, has func(code string) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if strings.HasPrefix(filepath.Base(path), s.prefix()) {
		marks, err := os.ReadDir(filepath.Join(path, ofDir))
		if err != nil {
			return err
		}
		left := len(marks)
		for _, mark := range marks {
			if has("sha256:" + mark.Name()) {
				continue
			}
			if err := os.Remove(filepath.Join(path, ofDir, mark.Name())); err != nil {
				return err
			}
			left--
		}
		if info, err := os.Stat(filepath.Join(path, ofDir)); left > 0 || err != nil || time.Since(info.ModTime()) < time.Minute {
			return err // its bundle may be one that is just being deployed
		}
	}
	return remove(path)
}

// discard removes the artefact of a module.
func (s *store) discard(m source) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := remove(s.path(m))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// remove takes an artefact's name away first: it is whole or not there.
func remove(path string) error {
	grave, err := os.MkdirTemp(filepath.Dir(path), tmpPrefix)
	if err != nil {
		return err
	}
	return errors.Join(os.Rename(path, filepath.Join(grave, "removed")), os.RemoveAll(grave))
}
