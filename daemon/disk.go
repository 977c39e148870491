package daemon

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lambent"
	"lambent/store/jetstream"
)

const (
	reserve    = jetstream.DefaultReserve // code keeps the same
	lookAtDisk = time.Second
	freeDisk   = "free some space on the disk: changes are refused, while functions go on; what they log and the records of invocations may be lost meanwhile"
)

// watchDisk has events tell when the disk gets full and when it is not any more, until stop, which waits.
func (n *node) watchDisk() (stop func()) {
	ended := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		full := false
		for tick := time.NewTicker(lookAtDisk); ; {
			full = n.lookAtDisk(full)
			select {
			case <-tick.C:
			case <-ended:
				tick.Stop()
				return
			}
		}
	})
	return func() {
		close(ended)
		running.Wait()
	}
}

// lookAtDisk tells whether the disk is full, and an event if that is news. It is free again when an eighth more than the
// reserve is, so that one that is just full makes few events.
func (n *node) lookAtDisk(full bool) bool {
	free, err := n.cfg.freeBytes()
	switch {
	case err != nil:
		n.log.Error("cannot tell how full the disk is", "err", err)
	case !full && free < reserve:
		n.log.Warn("the disk is full: "+freeDisk, "dir", n.cfg.Data, "free", free, "reserve", reserve)
		n.event(lambent.SystemEvent{Kind: lambent.EventStorageFull, Text: describeDisk(n.cfg.Data, free)})
		return true
	case full && free >= reserve+reserve/8:
		n.log.Info("the disk has room again", "dir", n.cfg.Data, "free", free)
		n.event(lambent.SystemEvent{Kind: lambent.EventStorageFree, Text: describeDisk(n.cfg.Data, free)})
		return false
	}
	return full
}

func (n *node) diskFinding() lambent.Finding {
	f := lambent.Finding{Name: "disk"}
	free, err := n.cfg.freeBytes()
	switch {
	case err != nil:
		f.Detail = err.Error()
	case free < reserve:
		f.Detail, f.Hint = describeDisk(n.cfg.Data, free), freeDisk
	default:
		f.OK, f.Detail = true, describeDisk(n.cfg.Data, free)
	}
	return f
}

func describeDisk(dir string, free int64) string {
	return fmt.Sprintf("%s has %d MiB free, the reserve is %d MiB", dir, free>>20, reserve>>20)
}

// freeBytes is what the disk of the data folder has free for this user.
func (c *Config) freeBytes() (int64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(c.Data, &fs); err != nil {
		return 0, fmt.Errorf("statfs %s: %w", c.Data, err)
	}
	return int64(fs.Bavail) * fs.Bsize, nil
}
