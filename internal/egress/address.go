package egress

import (
	"net"
	"net/netip"
)

// refused are the addresses that lead into a machine or a private network instead of the internet, by the IANA
// registries of special-purpose addresses (RFC 6890). The nets for documentation are not among them: they lead
// nowhere, and where they lead somewhere, somebody has meant it. One address is in no registry: what answers there tells
// and does to a machine at Azure what the link-local one does elsewhere.
var refused = []struct {
	prefix netip.Prefix
	what   string
}{
	{netip.MustParsePrefix("10.0.0.0/8"), "a private address"},
	{netip.MustParsePrefix("100.64.0.0/10"), "a carrier's private address"},
	{netip.MustParsePrefix("127.0.0.0/8"), "a loopback address"},
	{netip.MustParsePrefix("168.63.129.16/32"), "the address of Azure's platform"},
	{netip.MustParsePrefix("169.254.0.0/16"), "a link-local address"},
	{netip.MustParsePrefix("172.16.0.0/12"), "a private address"},
	{netip.MustParsePrefix("192.0.0.0/24"), "an address of protocols"},
	{netip.MustParsePrefix("192.168.0.0/16"), "a private address"},
	{netip.MustParsePrefix("198.18.0.0/15"), "an address of benchmarks"},
	{netip.MustParsePrefix("::/96"), "a loopback or IPv4-compatible address"},
	{netip.MustParsePrefix("64:ff9b:1::/48"), "an address of a local NAT64"}, // embeds at a place that only its network knows
	{netip.MustParsePrefix("fc00::/7"), "a private address"},
	{netip.MustParsePrefix("fe80::/10"), "a link-local address"},
	{netip.MustParsePrefix("fec0::/10"), "a site-local address"},
}

// unusable are no addresses of one machine. Connecting to some of them means this one, so nothing permits them.
var unusable = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("224.0.0.0/4"),
	netip.MustParsePrefix("240.0.0.0/4"), // with the broadcast address
	netip.MustParsePrefix("::/128"),
	netip.MustParsePrefix("ff00::/8"),
}

var (
	nat64     = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052
	sixToFour = netip.MustParsePrefix("2002::/16")    // RFC 3056
	teredo    = netip.MustParsePrefix("2001::/32")    // RFC 4380
)

// embedded gives the IPv4 addresses that a gateway would turn addr into.
func embedded(addr netip.Addr) []netip.Addr {
	b := addr.As16()
	at := func(i int, mask byte) netip.Addr {
		return netip.AddrFrom4([4]byte{b[i] ^ mask, b[i+1] ^ mask, b[i+2] ^ mask, b[i+3] ^ mask})
	}
	switch {
	case nat64.Contains(addr):
		return []netip.Addr{at(12, 0)}
	case sixToFour.Contains(addr):
		return []netip.Addr{at(2, 0)}
	case teredo.Contains(addr):
		return []netip.Addr{at(4, 0), at(12, 0xff)} // its server's, and its own with all bits turned
	}
	return nil
}

// refuse says why nobody may connect to an address and port: "" when everybody may.
func (p *Proxy) refuse(to netip.AddrPort) string {
	addr := to.Addr().Unmap()
	if !addr.IsValid() || addr.Zone() != "" {
		return "is no plain address"
	}
	for _, inner := range embedded(addr) {
		if why := p.refuse(netip.AddrPortFrom(inner, to.Port())); why != "" {
			return "leads to " + inner.String() + ", which " + why
		}
	}
	for _, prefix := range unusable {
		if prefix.Contains(addr) {
			return "is no address of a machine"
		}
	}
	local, err := isLocal(addr)
	if err != nil {
		return "cannot be told from the node's own addresses"
	}
	for _, own := range p.own() {
		if own.Port() == to.Port() && (own.Addr().Unmap() == addr || own.Addr().IsUnspecified() && local) {
			return "is a listener of the node itself"
		}
	}
	for _, prefix := range p.permit {
		if prefix.Contains(addr) {
			return ""
		}
	}
	for _, r := range refused {
		if r.prefix.Contains(addr) {
			return "is " + r.what
		}
	}
	if local {
		return "is the node's own address"
	}
	return ""
}

// isLocal tells whether this machine has the address. It asks anew each time, because addresses come and go.
func isLocal(addr netip.Addr) (bool, error) {
	if addr.IsLoopback() {
		return true, nil
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return false, err
	}
	for _, a := range own {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap() == addr {
				return true, nil
			}
		}
	}
	return false, nil
}
