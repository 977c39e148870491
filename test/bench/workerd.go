package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
)

// startWorkerd runs workerd with two workers that answer as noop does: static in an isolate that all requests share,
// fresh in a new one for each.
func startWorkerd(ctx context.Context) (static, fresh target, stop func(), err error) {
	var addresses [2]string
	var sockets [2]*os.File
	for i := range sockets {
		l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			return static, fresh, nil, err
		}
		addresses[i] = l.Addr().String()
		sockets[i], err = l.File()
		if err = errors.Join(err, l.Close()); err != nil {
			return static, fresh, nil, err
		}
		defer sockets[i].Close()
	}
	cmd := exec.CommandContext(ctx, "bench/tools/workerd", "serve", "--experimental", "--socket-fd=static=3", "--socket-fd=fresh=4", "test/bench/workerd/config.capnp")
	cmd.ExtraFiles = sockets[:]
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Start(); err != nil {
		return static, fresh, nil, fmt.Errorf("%w: run scripts/setup-bench first", err)
	}
	stop = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() } // it serves until then
	static, fresh = get("workerd, static worker", addresses[0], "/"), get("workerd, Worker Loader load()", addresses[1], "/")
	static.pids, fresh.pids = []int{cmd.Process.Pid}, []int{cmd.Process.Pid}
	for _, t := range []target{static, fresh} {
		if err := once(ctx, t); err != nil { // it waits until workerd accepts
			stop()
			return static, fresh, nil, err
		}
	}
	return static, fresh, stop, nil
}
