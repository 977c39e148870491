package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// bare is a program that serves on a unix socket of the kind that a sandbox gets, without Lambent.
type bare struct {
	cmd    *exec.Cmd
	socket string
}

// startBare runs argv in the folder code with a listening unix socket, which is made in dir, as descriptor 3.
func startBare(ctx context.Context, dir, code string, env []string, argv ...string) (*bare, error) {
	socket := filepath.Join(dir, fmt.Sprintf("bare-%d.sock", time.Now().UnixNano()))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer l.Close()
	l.SetUnlinkOnClose(false)
	f, err := l.File()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := &bare{cmd: exec.CommandContext(ctx, argv[0], argv[1:]...), socket: socket}
	b.cmd.Dir = code
	b.cmd.ExtraFiles = []*os.File{f}
	b.cmd.Env = append(os.Environ(), env...)
	b.cmd.Stderr = os.Stderr
	return b, b.cmd.Start()
}

func (b *bare) stop() {
	_ = b.cmd.Process.Kill() // it may have ended by itself
	_ = b.cmd.Wait()         // killed
	os.Remove(b.socket)
}

// timeBare measures from before fork to the last byte of the first answer.
func timeBare(ctx context.Context, dir string, body []byte, env []string, argv ...string) (time.Duration, error) {
	began := time.Now()
	b, err := startBare(ctx, dir, dir, env, argv...)
	if err != nil {
		return 0, err
	}
	defer b.stop()
	err = once(ctx, post("bare", "unix", b.socket, "bare", "/", body))
	return time.Since(began), err
}

// once sends one request on a new connection.
func once(ctx context.Context, t target) error {
	c, err := dial(ctx, t, time.Now().Add(30*time.Second))
	if err != nil {
		return err
	}
	defer c.close()
	status, _, err := c.call()
	if err == nil && status != 200 {
		err = fmt.Errorf("%s: status %d", t.name, status)
	}
	return err
}
