// Package code keeps code bundles by their digest on this node, and unpacks each once.
//
//	sha256/<hex>.tar   bundles, deterministic tars: see package bundle
//	trees/<hex>/       bundles unpacked
//	tmp/               work under way; emptied by Open, or by Alone of what is another process's
//
// A file or tree under its final name is complete and on the disk: it came there by a rename after a sync.
package code

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lambent"
	"lambent/internal/bundle"
	"lambent/internal/durable"
)

// DefaultReserve is the default of Options.Reserve, in bytes.
const DefaultReserve = 256 << 20

// Options say where the store is and what it takes.
type Options struct {
	Dir      string
	Limit    int64 // bytes that a bundle may have unpacked; bundle.Default if 0
	MaxFiles int   // files, directories and links of a bundle; bundle.Default if 0
	Reserve  int64 // bytes that stay free on the file system; DefaultReserve if 0
	// Shared says that another process uses the folder, too, so that what is half received or unpacked may be its; see
	// [Store.Alone].
	Shared bool
	Logger *slog.Logger // slog.Default() if nil
}

// Store is a code store. It may be used from many goroutines.
type Store struct {
	opts    Options
	bundles string
	trees   string
	tmp     string
	mine    string // begins the names in tmp that this process gives

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu      sync.Mutex
	unpacks map[string]*unpack // by digest; those under way

	holding sync.Mutex     // guards held, and removals from Holds
	held    map[string]int // by digest, how often
}

// Open opens the store in opts.Dir, makes it if it is missing, and removes what a crash has left half done.
func Open(opts Options) (*Store, error) {
	opts.Limit = cmp.Or(opts.Limit, bundle.Default.Bytes)
	opts.MaxFiles = cmp.Or(opts.MaxFiles, bundle.Default.Entries)
	opts.Reserve = cmp.Or(opts.Reserve, DefaultReserve)
	opts.Logger = cmp.Or(opts.Logger, slog.Default())
	s := &Store{
		opts:    opts,
		bundles: filepath.Join(opts.Dir, "sha256"),
		trees:   filepath.Join(opts.Dir, "trees"),
		tmp:     filepath.Join(opts.Dir, "tmp"),
		mine:    fmt.Sprintf("%d-", time.Now().UnixNano()),
		unpacks: map[string]*unpack{},
		held:    map[string]int{},
	}
	for _, dir := range []string{s.bundles, s.trees, s.tmp} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	if !opts.Shared {
		if err := s.Alone(); err != nil {
			return nil, err
		}
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, durable.SyncDir(opts.Dir)
}

// Alone says that no other process uses the folder any more, and removes what others have left half received or unpacked.
func (s *Store) Alone() error {
	left, err := os.ReadDir(s.tmp)
	errs := []error{err}
	for _, d := range left {
		if !strings.HasPrefix(d.Name(), s.mine) {
			s.opts.Logger.Info("removing code that was half received or unpacked", "dir", s.tmp, "name", d.Name())
			errs = append(errs, os.RemoveAll(filepath.Join(s.tmp, d.Name())))
		}
	}
	return errors.Join(errs...)
}

// Close stops the unpacking under way and waits for its end.
func (s *Store) Close() error {
	s.cancel()
	s.work.Wait()
	return nil
}

// Put stores what r gives, a tar, tar.gz or zip archive, as a bundle, and gives its digest and size in
// bytes. Errors are bundle_invalid, bundle_too_large and storage_full, or what r gave.
func (s *Store) Put(ctx context.Context, r io.Reader) (digest string, size int64, err error) {
	out, err := s.create()
	if err != nil {
		return "", 0, err
	}
	defer out.discard()
	spool, err := s.create()
	if err != nil {
		return "", 0, err
	}
	defer spool.discard()
	sum := sha256.New()
	limits := bundle.Limits{Bytes: s.opts.Limit, Entries: s.opts.MaxFiles}
	err = bundle.Normalise(io.MultiWriter(out, sum), &reader{ctx, r}, spool, limits)
	if err == nil {
		err = out.Sync()
	}
	if err != nil {
		return "", 0, failure(err)
	}
	digest = digestOf(sum)
	defer s.hold(digest)()
	// An existing bundle is replaced: it is the same, or it is damaged.
	had := s.Has(digest)
	if err := durable.Rename(out.Name(), s.bundlePath(digest)); err != nil {
		if !had { // nobody shall take it for one that stays
			_ = os.Remove(s.bundlePath(digest))
		}
		return "", 0, failure(err)
	}
	return digest, out.written, nil
}

// Has tells whether the bundle is here; not whether it is whole.
func (s *Store) Has(digest string) bool {
	_, err := s.stat(digest)
	return err == nil
}

// Open gives the bundle as it is on the disk: a tar file that the reader may compare with the digest. It gives code_unavailable
// where there is none.
func (s *Store) Open(digest string) (*os.File, error) {
	if _, err := s.stat(digest); err != nil {
		return nil, err
	}
	f, err := os.Open(s.bundlePath(digest))
	if err != nil {
		return nil, unavailable(digest, err)
	}
	return f, nil
}

var digestRE = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

func (s *Store) stat(digest string) (os.FileInfo, error) {
	if !digestRE.MatchString(digest) {
		return nil, unavailable(digest, errors.New("this is no digest"))
	}
	info, err := os.Stat(s.bundlePath(digest))
	if err != nil {
		return nil, unavailable(digest, err)
	}
	return info, nil
}

// bundlePath is for digests that digestRE matches.
func (s *Store) bundlePath(digest string) string {
	return filepath.Join(s.bundles, digest[len("sha256:"):]+".tar")
}

func (s *Store) treePath(digest string) string {
	return filepath.Join(s.trees, digest[len("sha256:"):])
}

func digestOf(sum hash.Hash) string { return "sha256:" + hex.EncodeToString(sum.Sum(nil)) }

func unavailable(digest string, cause error) error {
	if errors.Is(cause, os.ErrNotExist) {
		cause = errors.New("it is missing")
	}
	return lambent.Errorf(lambent.CodeCodeUnavailable, "the code %s cannot be used: %w", digest, cause).
		WithHint("deploy the function again")
}

// failure turns errors into those that leave the room.
func failure(err error) error {
	var broken *bundle.Error
	switch {
	case errors.As(err, &broken):
		code := lambent.CodeBundleInvalid
		if broken.TooLarge {
			code = lambent.CodeBundleTooLarge
		}
		out := lambent.Errorf(code, "%w", broken)
		out.Hint = broken.Hint
		return out
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return lambent.Errorf(lambent.CodeStorageFull, "storing code: %w", err).WithHint("free some space on the disk")
	}
	return err
}

// Space gives storage_full when fewer than need bytes are free above the reserve.
func (s *Store) Space(need int64) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(s.opts.Dir, &fs); err != nil {
		return fmt.Errorf("statfs %s: %w", s.opts.Dir, err)
	}
	if free := int64(fs.Bavail) * fs.Bsize; free-need < s.opts.Reserve {
		return lambent.Errorf(lambent.CodeStorageFull, "%s has %d MiB free, the reserve is %d MiB", s.opts.Dir, free>>20, s.opts.Reserve>>20).
			WithHint("free some space on the disk")
	}
	return nil
}

// tempFile is a file in tmp that leaves the reserve alone.
type tempFile struct {
	*os.File
	store   *Store
	written int64
	checked int64 // how far the space that is written to was known to be there
}

const checkEvery = 4 << 20

func (s *Store) create() (*tempFile, error) {
	f, err := os.CreateTemp(s.tmp, s.mine+"bundle-")
	if err != nil {
		return nil, failure(err)
	}
	return &tempFile{File: f, store: s}, nil
}

func (f *tempFile) Write(p []byte) (int, error) {
	if f.written+int64(len(p)) > f.checked {
		if err := f.store.Space(checkEvery); err != nil {
			return 0, err
		}
		f.checked = f.written + int64(len(p)) + checkEvery
	}
	n, err := f.File.Write(p)
	f.written += int64(n)
	return n, err
}

// ReadFrom hides the one of os.File, which would go around Write.
func (f *tempFile) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{f}, r)
}

// discard closes the file and removes it from tmp, where it may be no longer.
func (f *tempFile) discard() {
	_ = f.Close()
	_ = os.Remove(f.Name()) // otherwise Open removes it
}

// reader ends with its context.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
