// Package layer keeps what build steps made, by namespace and key, within a bound of bytes.
//
//	ns-NAMESPACE/KEY/   one layer: a code store of one bundle, which was checked like any upload
//	tmp/                work under way; emptied by Open
//
// A namespace finds what it has put itself and nothing else: what a package's install script left in a layer
// is somebody's code. What was not used for longest goes first.
package layer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"lambent/code"
)

// Options say where the layers are and how large they may be; all but Logger are needed.
type Options struct {
	Dir    string
	Total  int64 // bytes of all layers, about
	Bytes  int64 // of one layer's files
	Files  int   // of one layer
	Logger *slog.Logger
}

// Store is a store of layers. It may be used from many goroutines, and by one process at a time.
type Store struct {
	o   Options
	tmp string

	mu   sync.Mutex
	used map[string]int // by path, how often; guarded by mu
}

// Layer is what a step made. It stays until it is released.
type Layer struct {
	Digest string // of its bundle
	store  *Store
	code   *code.Store
	path   string
}

// Open opens the store, makes it if it is missing, and clears away what a crash has left half done.
func Open(o Options) (*Store, error) {
	s := &Store{o: o, tmp: filepath.Join(o.Dir, "tmp"), used: map[string]int{}}
	if err := errors.Join(os.RemoveAll(s.tmp), os.MkdirAll(s.tmp, 0o755)); err != nil {
		return nil, err
	}
	return s, s.evict()
}

const prefix = "ns-" // "tmp" may be the name of a namespace

// path is a layer's folder. Names of namespaces are DNS labels, so that none leads elsewhere.
func (s *Store) path(namespace, key string) string {
	return filepath.Join(s.o.Dir, prefix+namespace, key)
}

func (s *Store) open(path string) (*code.Store, error) {
	return code.Open(code.Options{Dir: path, Limit: s.o.Bytes, MaxFiles: s.o.Files, Logger: s.o.Logger})
}

// Get gives the layer of that key, nil if there is none.
func (s *Store) Get(namespace, key string) (*Layer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.get(s.path(namespace, key))
}

func (s *Store) get(path string) (*Layer, error) {
	found, err := names(path, "sha256")
	if err != nil || len(found) != 1 {
		return nil, err
	}
	now := time.Now()
	if err := os.Chtimes(path, now, now); err != nil {
		return nil, err
	}
	store, err := s.open(path)
	if err != nil {
		return nil, err
	}
	s.used[path]++
	digest := "sha256:" + strings.TrimSuffix(found[0], ".tar")
	return &Layer{Digest: digest, store: s, code: store, path: path}, nil
}

// Put keeps what r gives, a tar archive, as the layer of that key. Errors are those of code.Store.Put.
func (s *Store) Put(ctx context.Context, namespace, key string, r io.Reader) (*Layer, error) {
	temp, err := os.MkdirTemp(s.tmp, "layer-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(temp)
	if err := s.put(ctx, temp, r); err != nil {
		return nil, err
	}
	l, err := s.take(temp, s.path(namespace, key))
	if err != nil {
		return nil, err
	}
	return l, s.evict()
}

// take makes a folder a layer, which is in use before anybody could evict it.
func (s *Store) take(dir, path string) (*Layer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := os.Rename(dir, path); err != nil && !errors.Is(err, fs.ErrExist) { // another build was faster: take its
		return nil, err
	}
	l, err := s.get(path)
	if l == nil && err == nil {
		err = fmt.Errorf("the layer at %s is damaged", path)
	}
	return l, err
}

func (s *Store) put(ctx context.Context, dir string, r io.Reader) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	store, err := s.open(dir)
	if err != nil {
		return err
	}
	_, _, err = store.Put(ctx, r)
	return errors.Join(err, store.Close())
}

// Temp makes an empty folder for the caller to remove; a crash does not leave it behind.
func (s *Store) Temp() (string, error) { return os.MkdirTemp(s.tmp, "work-") }

// Open gives the layer as a tar.
func (l *Layer) Open() (*os.File, error) { return l.code.Open(l.Digest) }

// Tree gives the layer as a folder, which is read-only.
func (l *Layer) Tree(ctx context.Context) (string, error) { return l.code.Tree(ctx, l.Digest) }

// Release lets the layer be removed. It is called once.
func (l *Layer) Release() {
	_ = l.code.Close() // waits; it has no error to give
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	if l.store.used[l.path]--; l.store.used[l.path] == 0 {
		delete(l.store.used, l.path)
	}
}

// evict removes the layers that were not used for longest until the rest is within the bound.
func (s *Store) evict() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	type layer struct {
		path string
		at   time.Time
		size int64
	}
	var layers []layer
	total := int64(0)
	namespaces, err := names(s.o.Dir)
	if err != nil {
		return err
	}
	for _, ns := range namespaces {
		if !strings.HasPrefix(ns, prefix) {
			continue
		}
		keys, err := names(s.o.Dir, ns)
		if err != nil {
			return err
		}
		for _, key := range keys {
			path := filepath.Join(s.o.Dir, ns, key)
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			size, err := sizeOf(path)
			if err != nil {
				return err
			}
			layers = append(layers, layer{path, info.ModTime(), size})
			total += size
		}
	}
	slices.SortFunc(layers, func(a, b layer) int { return cmp.Or(a.at.Compare(b.at), strings.Compare(a.path, b.path)) })
	for _, l := range layers {
		if total <= s.o.Total {
			return nil
		}
		if s.used[l.path] > 0 {
			continue
		}
		grave, err := os.MkdirTemp(s.tmp, "evicted-")
		if err != nil {
			return err
		}
		if err := os.Rename(l.path, filepath.Join(grave, "layer")); err != nil {
			return err
		}
		if err := os.RemoveAll(grave); err != nil {
			return err
		}
		s.o.Logger.Info("removed a layer to make room", "path", l.path, "bytes", l.size)
		total -= l.size
	}
	return nil
}

// sizeOf is about what a layer takes: its bundle, and as much again where it is unpacked.
func sizeOf(path string) (size int64, err error) {
	trees, err := names(path, "trees")
	if err != nil {
		return 0, err
	}
	bundles, err := names(path, "sha256")
	if err != nil {
		return 0, err
	}
	for _, name := range bundles {
		info, err := os.Stat(filepath.Join(path, "sha256", name))
		if err != nil {
			return 0, err
		}
		size += info.Size() * int64(1+len(trees))
	}
	return size, nil
}

// names lists a folder, which may be missing.
func names(path ...string) (list []string, err error) {
	found, err := os.ReadDir(filepath.Join(path...))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, d := range found {
		list = append(list, d.Name())
	}
	return list, err
}
