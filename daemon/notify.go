package daemon

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// notifier tells the service manager, if there is one, how the node is; see sd_notify(3).
type notifier struct{ log *slog.Logger }

func (n notifier) say(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		n.log.Warn("the service manager cannot be told", "state", state, "err", err)
	}
}

func (n notifier) ready(status string) { n.say(daemon.SdNotifyReady + "\nSTATUS=" + status) }

// reloading says that an upgrade begins. Each is followed by ready: of this process, or of the next.
func (n notifier) reloading() {
	n.say(fmt.Sprintf("%s\nMONOTONIC_USEC=%d\nSTATUS=upgrading", daemon.SdNotifyReloading, monotonic()/time.Microsecond))
}

// replaced says who serves from now on. It is the old process that says so: what the manager does not know to be the
// main one it may not listen to.
func (n notifier) replaced(pid int, status string) {
	n.say(fmt.Sprintf("MAINPID=%d\n%s\nSTATUS=%s", pid, daemon.SdNotifyReady, status))
}

func (n notifier) stopping(status string) { n.say(daemon.SdNotifyStopping + "\nSTATUS=" + status) }

// watchdog says that this process is alive, as often as the manager wants to know it, until done is closed.
func (n notifier) watchdog(done <-chan struct{}) {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil || every == 0 {
		return
	}
	tick := time.NewTicker(every / 2)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			n.say(daemon.SdNotifyWatchdog)
		case <-done:
			return
		}
	}
}

func monotonic() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err) // the clock exists and the address is ours
	}
	return time.Duration(ts.Nano())
}
