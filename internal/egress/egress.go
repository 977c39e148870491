package egress

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lambent"
)

const (
	resolveTime = 5 * time.Second  // to look a name up
	connectTime = 10 * time.Second // to look it up and connect
	maxAnswers  = 8                // addresses of a name that are tried
)

// Options say what the rules of functions cannot: what the node allows, and how it finds addresses.
type Options struct {
	// Permit are addresses that rules may allow although they are refused otherwise, such as a private network's.
	Permit []netip.Prefix
	// Own gives the node's own listeners, which stay refused. Default: none.
	Own func() []netip.AddrPort
	// Resolve gives the addresses of a name. Default: the resolver of the machine.
	Resolve func(ctx context.Context, name string) ([]netip.Addr, error)
}

// Proxy is what the gates of a node share.
type Proxy struct {
	permit  []netip.Prefix
	own     func() []netip.AddrPort
	resolve func(ctx context.Context, name string) ([]netip.Addr, error)
	slots   chan struct{} // one for each connection of any sandbox
	shares  sync.Map      // a chan struct{} of each namespace; they stay, being few and small
}

// New makes a Proxy.
func New(o Options) *Proxy {
	p := &Proxy{own: o.Own, resolve: o.Resolve, slots: make(chan struct{}, capacity())}
	for _, prefix := range o.Permit {
		// Addresses are compared without the IPv6 form of IPv4, so prefixes must be too.
		if prefix.Addr().Is4In6() && prefix.Bits() >= 96 {
			prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
		}
		p.permit = append(p.permit, prefix)
	}
	if p.own == nil {
		p.own = func() []netip.AddrPort { return nil }
	}
	if p.resolve == nil {
		p.resolve = func(ctx context.Context, name string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", name)
		}
	}
	return p
}

// capacity is for how many connections a quarter of the descriptors is enough that this process may have: a tunnel
// takes two, and four of pipes to splice by. The rest is kept for everything else that a node does.
func capacity() int {
	const each, least, most = 6, 16, 1 << 16
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return least
	}
	return int(min(max(limit.Cur/4/each, least), most))
}

// share gives the slots of a namespace: a quarter, so that the others have some however much one takes.
func (p *Proxy) share(namespace string) chan struct{} {
	share, _ := p.shares.LoadOrStore(namespace, make(chan struct{}, cap(p.slots)/4))
	return share.(chan struct{})
}

// target is a name or an address as a rule has it, and a port.
type target struct {
	host string
	port int
}

func (t target) String() string { return net.JoinHostPort(t.host, strconv.Itoa(t.port)) }

// parseTarget reads HOST:PORT as strictly as a rule, and like it.
func parseTarget(text string) (target, *lambent.Error) {
	rule, err := lambent.ParseEgress(text)
	if err != nil || rule.Port == 0 || strings.HasPrefix(rule.Host, "*") {
		if len(text) > 100 {
			text = text[:100] + "..."
		}
		return target{}, lambent.Errorf(lambent.CodeInvalidRequest, "the proxy cannot connect to %q", text).
			WithHint("ask for HOST:PORT, with a DNS name or an IP address and a port from 1 to 65535")
	}
	return target{rule.Host, rule.Port}, nil
}

func denied(to target, format string, args ...any) *lambent.Error {
	return lambent.Errorf(lambent.CodeEgressDenied, "this sandbox may not connect to %s: %s", to, fmt.Sprintf(format, args...))
}

// connect connects to what the rules and the node allow. Errors are *lambent.Error: egress_denied, egress_failed.
func (p *Proxy) connect(ctx context.Context, rules []lambent.EgressRule, to target) (*net.TCPConn, error) {
	if !slices.ContainsFunc(rules, func(r lambent.EgressRule) bool { return r.Allows(to.host, to.port) }) {
		return nil, denied(to, "no egress rule of it allows that").
			WithHint("add %q to egress in the function's settings and deploy it; for builds the node's operator allows it: lambent up --build-egress", to)
	}
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	addrs, err := p.addresses(ctx, to)
	if err != nil {
		return nil, err
	}
	for i, addr := range addrs {
		// Each gets its share of the time that is left, as in net.Dialer.
		deadline, _ := ctx.Deadline()
		ctx, cancel := context.WithTimeout(ctx, time.Until(deadline)/time.Duration(len(addrs)-i))
		conn, dialErr := p.dial(ctx, addr)
		cancel()
		if dialErr == nil {
			return conn, nil
		}
		err = cmp.Or(err, dialErr)
	}
	return nil, failed("cannot connect to "+to.String(), err).WithHint("the node itself could not; is it there?")
}

// failed is what becomes of an error without what it tells of the node, such as its resolver's address.
func failed(what string, err error) *lambent.Error {
	if dns := (*net.DNSError)(nil); errors.As(err, &dns) {
		err = errors.New(dns.Err)
	} else if op := (*net.OpError)(nil); errors.As(err, &op) {
		err = op.Err
	}
	return lambent.Errorf(lambent.CodeEgressFailed, "%s: %w", what, err)
}

// addresses gives those of to that may be dialled.
func (p *Proxy) addresses(ctx context.Context, to target) ([]netip.AddrPort, error) {
	var found []netip.Addr
	if addr, err := netip.ParseAddr(to.host); err == nil {
		found = []netip.Addr{addr}
	} else {
		ctx, cancel := context.WithTimeout(ctx, resolveTime)
		defer cancel()
		if found, err = p.resolve(ctx, to.host); err != nil || len(found) == 0 {
			return nil, failed("cannot find the address of "+to.host, cmp.Or(err, errNoAddress)).
				WithHint("the node's own resolver was asked; is the name right?")
		}
	}
	var good []netip.AddrPort
	var bad *lambent.Error
	for _, addr := range found {
		a := netip.AddrPortFrom(addr.Unmap(), uint16(to.port))
		switch why := p.refuse(a); {
		case why == "":
			good = append(good, a)
		case bad == nil:
			bad = denied(to, "its address %s %s", a.Addr(), why).
				WithHint("the node's operator can permit a network: lambent up --egress-permit PREFIX")
		}
	}
	if len(good) == 0 {
		return nil, bad
	}
	return good[:min(len(good), maxAnswers)], nil
}

var errNoAddress = errors.New("no answer")

// dial connects to an address, which is checked once more where nothing can change it any longer.
func (p *Proxy) dial(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) {
	d := net.Dialer{Control: func(_, address string, _ syscall.RawConn) error {
		last, err := netip.ParseAddrPort(address)
		if err == nil && last != to || err == nil && p.refuse(last) != "" {
			err = fmt.Errorf("%s is refused", address)
		}
		return err
	}}
	conn, err := d.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}
