// Package embednats runs a NATS server with JetStream inside this process. It listens nowhere: the only
// way in is the in-process connection. Every write is on the disk before it is acknowledged.
package embednats

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// ErrInUse means that another server has the directory. ErrStuck means that NATS does not come to an end
// with restoring its streams, which some damaged files do to it; the process has to end, because it goes
// on trying.
var (
	ErrInUse = errors.New("the directory is in use by another process")
	ErrStuck = errors.New("NATS cannot restore its streams; its files may be damaged: restore a backup")
)

// MaxPayload is the size in bytes of the largest message, headers included.
const MaxPayload = 2 << 20

const (
	defaultStartTimeout = time.Minute
	defaultCloseTimeout = 10 * time.Second
)

// Options say how to run the server.
type Options struct {
	Dir    string       // where the streams live; made if it is missing
	Logger *slog.Logger // gets what NATS says of repairs and faults; slog.Default() if nil
	// StartTimeout bounds Start, in which NATS restores all streams; a minute if 0.
	StartTimeout time.Duration
	// CloseTimeout bounds Close; 10 s if 0.
	CloseTimeout time.Duration
}

// Server is a running NATS server.
type Server struct {
	opts   Options
	lock   *os.File
	server atomic.Pointer[server.Server]
	conn   *nats.Conn

	restore sync.Mutex    // held by Restore and Close
	stuck   bool          // a server does not come to an end with its start; guarded by restore
	started chan struct{} // closed when the server's start has come to its end; guarded by restore
}

// Start runs a server on opts.Dir. NATS itself does not mind two servers on one directory, although they
// destroy its files, so a lock guards it; the second Start gives an error that wraps [ErrInUse].
func Start(opts Options) (*Server, error) {
	opts.Logger = cmp.Or(opts.Logger, slog.Default())
	opts.StartTimeout = cmp.Or(opts.StartTimeout, defaultStartTimeout)
	opts.CloseTimeout = cmp.Or(opts.CloseTimeout, defaultCloseTimeout)
	if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := lockFile(filepath.Join(opts.Dir, "lock"))
	if err != nil {
		return nil, err
	}
	s := &Server{opts: opts, lock: lock}
	err = s.run(context.Background())
	if err == nil {
		s.conn, err = nats.Connect("", nats.InProcessServer(s), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
	}
	if err == nil {
		return s, nil
	}
	err = fmt.Errorf("%s: %w", opts.Dir, err)
	if errors.Is(err, ErrStuck) {
		return nil, err // the lock stays with this process, which still writes there
	}
	return nil, errors.Join(err, s.Close())
}

func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrInUse
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// run starts a NATS server. If ctx ends first the start goes on, until [Server.stop].
func (s *Server) run(ctx context.Context) error {
	srv, err := server.NewServer(&server.Options{
		ServerName:         "lambent",
		DontListen:         true,
		NoSigs:             true,
		MaxPayload:         MaxPayload,
		JetStream:          true,
		StoreDir:           s.opts.Dir,
		SyncAlways:         true,
		JetStreamMaxMemory: 1 << 30,
		// The default is three quarters of what is free at the start, which would refuse to restore
		// streams on a disk that has filled up since. Who writes keeps a reserve of its own.
		JetStreamMaxStore: math.MaxInt64 / 2,
	})
	if err != nil {
		return err
	}
	srv.SetLoggerV2(logger{s.opts.Logger}, false, false, false)
	started := make(chan struct{})
	s.server.Store(srv)
	s.started = started
	go func() { defer close(started); srv.Start() }()
	select {
	case <-started:
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(s.opts.StartTimeout):
		s.stuck = true
		return fmt.Errorf("%w (tried for %s)", ErrStuck, s.opts.StartTimeout)
	}
	if !srv.ReadyForConnections(s.opts.StartTimeout) || !srv.JetStreamEnabled() {
		return errors.New("NATS did not start; its log says why")
	}
	return nil
}

// Conn is the connection into the server, shared by all users.
func (s *Server) Conn() *nats.Conn { return s.conn }

// InProcessConn makes another connection into the server, on which the NATS protocol is spoken.
func (s *Server) InProcessConn() (net.Conn, error) { return s.server.Load().InProcessConn() }

// Dir is the directory that was given to [Start].
func (s *Server) Dir() string { return s.opts.Dir }

// StreamDir is where the files of a stream are, whether or not the server knows the stream.
func (s *Server) StreamDir(stream string) string {
	return filepath.Join(s.opts.Dir, server.JetStreamStoreDir, server.DEFAULT_GLOBAL_ACCOUNT, "streams", stream)
}

// Close ends the connection and the server. It gives an error if the server is still busy after opts.CloseTimeout; what
// was acknowledged is safe then, too, and the directory stays in use as long as this process lives.
func (s *Server) Close() error {
	s.restore.Lock()
	defer s.restore.Unlock()
	if s.conn != nil {
		s.conn.Close()
	}
	if s.server.Load() != nil {
		if err := s.stop(context.Background()); err != nil {
			return err
		}
	}
	_ = s.lock.Close() // nothing was written to it
	return nil
}

// stop ends the NATS server, and its start.
func (s *Server) stop(ctx context.Context) error {
	done, started := make(chan struct{}), s.started
	go func() {
		defer close(done)
		srv := s.server.Load()
		srv.Shutdown()
		srv.WaitForShutdown()
		<-started
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(s.opts.CloseTimeout):
		return fmt.Errorf("NATS on %s did not stop within %s", s.opts.Dir, s.opts.CloseTimeout)
	}
}

// logger gives what NATS has to say to slog: its notices are debugging to us, except for the faults.
type logger struct{ log *slog.Logger }

func (l logger) Noticef(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l logger) Warnf(format string, v ...any)   { l.log.Warn(fmt.Sprintf(format, v...)) }
func (l logger) Errorf(format string, v ...any)  { l.log.Error(fmt.Sprintf(format, v...)) }
func (l logger) Fatalf(format string, v ...any)  { l.log.Error(fmt.Sprintf(format, v...)) }
func (l logger) Debugf(format string, v ...any)  { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l logger) Tracef(format string, v ...any)  { l.log.Debug(fmt.Sprintf(format, v...)) }
