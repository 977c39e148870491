package embednats

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"golang.org/x/sys/unix"
)

// Fault tells why the stream takes no writes any more, nil if it does as far as the server knows. A write that failed
// is not answered, and neither is any after it. The error wraps syscall.ENOSPC if the disk was full.
func (s *Server) Fault(stream string) error {
	health := s.server.Load().Healthz(&server.HealthzOptions{Account: server.DEFAULT_GLOBAL_ACCOUNT, Stream: stream})
	switch {
	case health.Error == "":
		return nil
	case strings.Contains(health.Error, syscall.ENOSPC.Error()):
		return fmt.Errorf("%s: %w", strings.TrimSuffix(health.Error, ": "+syscall.ENOSPC.Error()), syscall.ENOSPC)
	}
	return errors.New(health.Error)
}

// Restore ends the NATS server and starts another on the same files, because NATS never writes to a stream again on which
// a write has failed. [Server.Conn] stays and is connected to the new one; requests meanwhile may fail. What the kernel
// remembers of the files is dropped before: after a failed sync the disk may have something else. After [ErrStuck] no
// Restore will help. When ctx ends first, it can be done again.
func (s *Server) Restore(ctx context.Context) error {
	s.restore.Lock()
	defer s.restore.Unlock()
	if s.stuck {
		return ErrStuck
	}
	err := s.stop(ctx)
	if err == nil {
		err = forget(filepath.Join(s.opts.Dir, server.JetStreamStoreDir))
	}
	if err == nil {
		err = s.run(ctx)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s.opts.Dir, err)
	}
	for end := time.Now().Add(s.opts.StartTimeout); !s.conn.IsConnected(); time.Sleep(time.Millisecond) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s: no connection to NATS after its restart", s.opts.Dir)
		}
	}
	return nil
}

// forget has the kernel forget what it has in memory of the files below dir and has written, or failed to write.
func forget(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return ignoreMissing(err)
		}
		f, err := os.Open(path)
		if err != nil {
			return ignoreMissing(err)
		}
		return errors.Join(os.NewSyscallError("fadvise", unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)), f.Close())
	})
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
