package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lambent"
)

// socketFile, in the data folder, is where a daemon takes commands of this machine: one line of JSON each, answered
// with lines of progress and one that is the last.
const socketFile = "daemon.sock"

type command struct {
	Upgrade *UpgradeOptions `json:"upgrade"`
}

// UpgradeOptions say how to upgrade.
type UpgradeOptions struct {
	Binary string `json:"binary"` // file of the new program; "" for what is now in the place of the running one
	// Step bounds each step: what of the old process must end before it, and what the new one does. 0 is a minute.
	Step time.Duration `json:"step"`
}

type commandLine struct {
	Say   string         `json:"say,omitempty"`
	Done  *Upgraded      `json:"done,omitempty"`
	Error *lambent.Error `json:"error,omitempty"`
}

// Upgraded tells what process serves after an upgrade.
type Upgraded struct {
	PID     int    `json:"pid"`
	Version string `json:"version"`
}

// Bounds of a command: its size in bytes, and how long it may take to come, or a line of the answer to be taken.
const (
	maxCommand  = 64 << 10
	commandTime = 10 * time.Second
)

// socketIn gives a path for a socket in the folder dir, which may be longer than the 107 bytes that one may have.
func socketIn(dir *os.File) *net.UnixAddr {
	return &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), socketFile)}
}

// listenLocal listens for commands, where this process can be replaced.
func (n *node) listenLocal() error {
	if n.cfg.Args == nil {
		return nil
	}
	dir, err := os.Open(n.cfg.Data)
	if err != nil {
		return err
	}
	defer dir.Close()
	path := n.cfg.path(socketFile)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // a crash has left it: the folder is ours
		return err
	}
	if n.local, err = net.ListenUnix("unix", socketIn(dir)); err != nil {
		return err
	}
	n.local.SetUnlinkOnClose(false) // it may be another's by then
	return os.Chmod(path, 0o600)
}

// commands carries out commands and SIGUSR2 until stop is called.
func (n *node) commands(ctx context.Context, running *sync.WaitGroup) (stop func()) {
	if n.local == nil {
		return func() {}
	}
	signals, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, unix.SIGUSR2)
	running.Go(func() {
		for {
			select {
			case <-signals:
				if now, err := n.upgraded(ctx, UpgradeOptions{}, func(string) {}); err == nil {
					n.log.Info("upgraded", "pid", now.PID, "version", now.Version)
				} else {
					n.log.Error("no upgrade", "err", err)
				}
			case <-done:
				return
			}
		}
	})
	running.Go(func() {
		for {
			conn, err := n.local.AcceptUnix()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
				if err := n.command(ctx, conn); err != nil {
					n.log.Warn("a command of this machine failed", "err", err)
				}
			})
		}
	})
	return func() {
		signal.Stop(signals) // one that comes later does nothing, see os/signal
		close(done)
		n.local.Close()
	}
}

// upgraded upgrades and returns when the new process serves.
func (n *node) upgraded(ctx context.Context, o UpgradeOptions, say func(string)) (*Upgraded, error) {
	next, err := n.upgrade(ctx, o, say)
	if err != nil {
		return nil, err
	}
	return next.served(context.WithoutCancel(ctx))
}

// command carries out what the other end of conn asks for, if that is root or who runs this daemon.
func (n *node) command(ctx context.Context, conn *net.UnixConn) error {
	if err := conn.SetReadDeadline(time.Now().Add(commandTime)); err != nil {
		return err
	}
	user, err := peer(conn)
	if err != nil {
		return err
	}
	if user != 0 && user != os.Geteuid() {
		return fmt.Errorf("user %d may give none", user)
	}
	var c command
	if err := json.NewDecoder(io.LimitReader(conn, maxCommand)).Decode(&c); err != nil {
		return err
	}
	enc := json.NewEncoder(conn)
	say := func(l commandLine) { // who has left need not be told, and the upgrade goes on
		_ = conn.SetWriteDeadline(time.Now().Add(commandTime))
		_ = enc.Encode(l)
	}
	if c.Upgrade == nil {
		say(commandLine{Error: lambent.Errorf(lambent.CodeInvalidRequest, "this daemon does not know the command")})
		return nil
	}
	now, err := n.upgraded(ctx, *c.Upgrade, func(text string) { say(commandLine{Say: text}) })
	say(commandLine{Done: now, Error: lambent.ErrorOf(err)})
	return nil
}

// peer gives the user at the other end of a connection.
func peer(conn *net.UnixConn) (user int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(cerr, err); err != nil {
		return 0, err
	}
	return int(cred.Uid), nil
}

// Upgrade has the daemon on the folder data replaced. Say is told of the steps. The error tells why it was not, and
// that daemon goes on to serve. The upgrade goes on when ctx ends.
func Upgrade(ctx context.Context, data string, o UpgradeOptions, say func(string)) (*Upgraded, error) {
	dir, err := os.Open(data)
	if err != nil {
		return nil, lambent.Errorf(lambent.CodeInvalidRequest, "there is no data folder: %w", err).WithHint("name it with --data")
	}
	defer dir.Close()
	conn, err := net.DialUnix("unix", nil, socketIn(dir))
	if err != nil {
		return nil, lambent.Errorf(lambent.CodeConflict, "no daemon on %s takes commands: %w", data, err).
			WithHint("is `lambent up` running there, by this user? --data names another folder")
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := json.NewEncoder(conn).Encode(command{Upgrade: &o}); err != nil {
		return nil, err
	}
	dec := json.NewDecoder(conn)
	for {
		var l commandLine
		switch err := dec.Decode(&l); {
		case err != nil && ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			return nil, lambent.Errorf(lambent.CodeUpgradeFailed, "the daemon did not tell the outcome: %w", err).
				WithHint("see its log")
		case l.Error != nil:
			return nil, l.Error
		case l.Done != nil:
			return l.Done, nil
		}
		say(l.Say)
	}
}
