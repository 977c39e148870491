package daemon

import (
	"net"
	"net/netip"
	"slices"
	"sync"

	"lambent"
)

// listeners knows where this daemon listens: functions must not get there, whatever their egress rules say.
type listeners struct {
	mu  sync.Mutex
	all []netip.AddrPort
}

func (ls *listeners) listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, lambent.Errorf(lambent.CodeInvalidRequest, "cannot listen on %s: %w", address, err).
			WithHint("is another server there? choose another address, or port 0 for any")
	}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.all = append(ls.all, l.Addr().(*net.TCPAddr).AddrPort())
	return l, nil
}

func (ls *listeners) addresses() []netip.AddrPort {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return slices.Clone(ls.all)
}
