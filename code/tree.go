package code

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lambent"
	"lambent/internal/durable"
)

// unpack is one bundle being unpacked, for all who wait for it.
type unpack struct {
	done chan struct{}
	err  error
}

// Tree gives the directory with the unpacked bundle, and unpacks it if that was not done yet. It is read by
// any user and must not be written to. Callers wait for one another; each leaves when its ctx ends, while
// the work goes on. Errors are code_unavailable for a missing or damaged bundle, and storage_full.
func (s *Store) Tree(ctx context.Context, digest string) (path string, err error) {
	if !digestRE.MatchString(digest) {
		return "", unavailable(digest, errors.New("this is no digest"))
	}
	path = s.treePath(digest)
	u, err := s.join(digest, path)
	if err != nil {
		return "", err
	}
	select {
	case <-u.done:
		return path, u.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// join gives the unpacking of digest that is under way, done, or begun here.
func (s *Store) join(digest, path string) (*unpack, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.unpacks[digest]; u != nil {
		return u, nil
	}
	u := &unpack{done: make(chan struct{})}
	if _, err := os.Lstat(path); err == nil {
		close(u.done)
		return u, nil
	}
	if s.ctx.Err() != nil {
		return nil, lambent.Errorf(lambent.CodeShuttingDown, "the code store is closed")
	}
	s.unpacks[digest] = u
	s.work.Go(func() {
		u.err = s.unpack(digest, path)
		s.mu.Lock()
		delete(s.unpacks, digest)
		s.mu.Unlock()
		close(u.done)
	})
	return u, nil
}

func (s *Store) unpack(digest, path string) error {
	begin := time.Now()
	bundle, err := s.Open(digest)
	if err != nil {
		return err
	}
	defer bundle.Close()
	info, err := bundle.Stat()
	if err != nil {
		return err
	}
	if err := s.Space(info.Size()); err != nil {
		return err
	}
	temp, err := os.MkdirTemp(s.tmp, s.mine+"tree-")
	if err != nil {
		return failure(err)
	}
	err = s.extract(temp, bundle, digest)
	if err == nil {
		err = settle(temp, path)
	}
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
		return os.RemoveAll(temp) // another process was faster
	}
	if err != nil {
		return errors.Join(failure(err), os.RemoveAll(temp))
	}
	s.opts.Logger.Debug("unpacked code", "digest", digest, "bytes", info.Size(), "took", time.Since(begin))
	return nil
}

// settle brings the finished tree to the disk and gives it its name.
func settle(temp, path string) error {
	dir, err := os.Open(temp)
	if err != nil {
		return err
	}
	defer dir.Close()
	// One sync of the file system is cheaper than one for each file.
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("syncfs %s: %w", temp, err)
	}
	return durable.Rename(temp, path)
}

// extract unpacks a bundle into dir and compares it with its digest.
func (s *Store) extract(dir string, bundle io.Reader, digest string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.Chmod(".", 0o755); err != nil {
		return err
	}
	sum := sha256.New()
	source := &reader{s.ctx, io.TeeReader(bundle, sum)}
	in := tar.NewReader(source)
	for {
		header, err := in.Next()
		if err == io.EOF {
			break
		}
		if err == nil {
			err = extractEntry(root, header, in)
		}
		switch {
		case s.ctx.Err() != nil:
			return lambent.Errorf(lambent.CodeShuttingDown, "the code store is closed")
		case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
			return err
		case err != nil:
			return unavailable(digest, fmt.Errorf("the stored bundle is damaged: %w", err))
		}
	}
	if _, err := io.Copy(io.Discard, source); err != nil {
		return err
	}
	if got := digestOf(sum); got != digest {
		return unavailable(digest, fmt.Errorf("the stored bundle is damaged: its digest is %s", got))
	}
	return nil
}

// extractEntry makes one entry; root sees to it that nothing lands outside. Modes are set apart, since the
// umask would cut them.
func extractEntry(root *os.Root, header *tar.Header, content io.Reader) error {
	name := filepath.Clean(header.Name)
	mode := os.FileMode(header.Mode) & 0o755
	switch header.Typeflag {
	case tar.TypeDir:
		if err := root.Mkdir(name, 0o700); err != nil {
			return err
		}
		return root.Chmod(name, mode)
	case tar.TypeSymlink:
		return root.Symlink(header.Linkname, name)
	case tar.TypeReg:
		f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		return errors.Join(err, f.Chmod(mode), f.Close())
	}
	return fmt.Errorf("entry %q is of the type %q, which no bundle holds", header.Name, header.Typeflag)
}
