package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"lambent"
	"lambent/internal/sandbox"
)

// kills kills the function of an instance every second. Only requests that it had read may fail, and they have to
// tell why.
func kills(ctx context.Context, short bool) error {
	killed := map[string]bool{} // written before the load ends, read after
	return scenario{name: "kill", excuse: byKill(killed), play: func(ctx context.Context, s *stage) error {
		count := int(s.length/time.Second) - 1
		err := s.each(ctx, count, func(int) error { return killOne(s.instances.list(), killed) })
		s.report.Notes["kills"] = strconv.Itoa(len(killed))
		if err == nil && len(killed) < count/2 {
			err = fmt.Errorf("only %d of %d kills met an instance", len(killed), count)
		}
		return err
	}}.run(ctx, short)
}

// byKill excuses requests that a killed instance had seen, when the function is named as what failed. What had
// been read of a WebSocket, and by Node.js, is known a moment too late, so it is enough that the instance had those.
func byKill(killed map[string]bool) func(*request) bool {
	return func(r *request) bool {
		if r.failure.fault != lambent.FaultFunction || r.failure.code != lambent.CodeInstanceExited {
			return false
		}
		if len(r.seen) == 0 && (r.function == "socket" || r.function == "fetch") {
			return killed[r.failure.instance]
		}
		return len(r.seen) > 0 && killed[r.seen[len(r.seen)-1]]
	}
}

// killOne kills one of the instances and adds it to killed. It is no error when it has just ended.
func killOne(alive []*sandboxed, killed map[string]bool) error {
	if len(alive) == 0 {
		return nil
	}
	in := alive[rand.IntN(len(alive))]
	fd, err := unix.PidfdOpen(in.program, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	stat, err := sandbox.Stat(in.program) // the pid can be nobody else's from here on
	if err != nil || stat[1] != strconv.Itoa(in.init) {
		return nil
	}
	killed[in.id] = true
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		return fmt.Errorf("kill the function of instance %s: %w", in.id, err)
	}
	return nil
}
