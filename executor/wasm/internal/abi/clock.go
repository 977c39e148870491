package abi

import (
	"math"
	"time"

	"github.com/tetratelabs/wazero/api"
)

const (
	realtime  = 0
	monotonic = 1

	maxSubscriptions = 1024
	subscriptionSize = 48
	eventSize        = 32
	absolute         = 1 // flag of a clock's subscription
)

var began = time.Now()

// now reads a clock in nanoseconds. The monotonic one begins with the real time at which this process did: what a
// module read in its initialisation, in another process and maybe before a restart of the machine, must be in the past.
func now(clock uint64) (ns uint64, ok bool) {
	switch uint32(clock) {
	case realtime:
		return uint64(time.Now().UnixNano()), true
	case monotonic:
		return uint64(began.UnixNano() + int64(time.Since(began))), true
	}
	return 0, false
}

// clockResGet is clock_res_get(clock, resolution).
func clockResGet(_ *Call, m api.Memory, p []uint64) errno {
	if _, ok := now(p[0]); !ok {
		return notsup
	}
	if !m.WriteUint64Le(uint32(p[1]), 1) {
		return fault
	}
	return success
}

// clockTimeGet is clock_time_get(clock, precision, time).
func clockTimeGet(_ *Call, m api.Memory, p []uint64) errno {
	ns, ok := now(p[0])
	if !ok {
		return notsup
	}
	if !m.WriteUint64Le(uint32(p[2]), ns) {
		return fault
	}
	return success
}

// pollOneoff is poll_oneoff(subscriptions, events, n, nevents). The streams are always ready: a read may wait all the same,
// as there is nothing else to do for a guest with one thread.
func pollOneoff(c *Call, m api.Memory, p []uint64) errno {
	n := uint32(p[2])
	if n == 0 || n > maxSubscriptions {
		return inval
	}
	subscriptions, ok := m.Read(uint32(p[0]), n*subscriptionSize)
	events, ok2 := m.Read(uint32(p[1]), n*eventSize)
	if !ok || !ok2 || !m.WriteUint32Le(uint32(p[3]), 0) {
		return fault
	}
	dues := make([]due, 0, 4)
	wait := time.Duration(math.MaxInt64)
	for s := subscriptions; len(s) > 0; s = s[subscriptionSize:] {
		d := c.due(s)
		dues = append(dues, d)
		wait = min(wait, d.wait)
	}
	if wait > 0 {
		c.sleep(wait)
	}
	count := uint32(0)
	for i, d := range dues {
		if d.wait > wait {
			continue
		}
		event, s := events[count*eventSize:][:eventSize], subscriptions[i*subscriptionSize:]
		clear(event[8:])
		copy(event, s[:8]) // what the guest knows it by
		le.PutUint16(event[8:], uint16(d.errno))
		event[10] = s[8]
		count++
	}
	m.WriteUint32Le(uint32(p[3]), count)
	return success
}

// due is how long a subscription has to wait, not at all when it is wrong.
type due struct {
	wait  time.Duration
	errno errno
}

func (c *Call) due(s []byte) due {
	switch s[8] {
	case 0:
		ns, ok := now(uint64(le.Uint32(s[16:])))
		if !ok {
			return due{errno: notsup}
		}
		timeout := le.Uint64(s[24:])
		if le.Uint16(s[40:])&absolute != 0 {
			timeout -= min(timeout, ns)
		}
		return due{wait: time.Duration(min(timeout, math.MaxInt64))}
	case 1, 2:
		if !c.open(uint64(le.Uint32(s[16:]))) {
			return due{errno: badf}
		}
		return due{}
	}
	return due{errno: inval}
}

// sleep returns early when the context of the call ends, which Block then makes the end of the call.
func (c *Call) sleep(d time.Duration) {
	c.flushBefore(d)
	c.block(func() {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-c.context.Done():
		}
	})
}
