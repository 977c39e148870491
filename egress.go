package lambent

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// EgressRule is one thing that code may connect to: "HOST:PORT", where HOST is a DNS name, "*." and a name for
// all names below it, an IP address, or "*" for any host, and PORT is a number or "*" for any port. A rule never
// opens what the node refuses to everybody: loopback, link-local and private addresses, and its own listeners.
type EgressRule struct {
	Host string // in lower case; "*", or "*.name", or a name, or an address as netip writes it
	Port int    // 0 for any
}

var (
	hostRE = regexp.MustCompile(`^([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$`)
	// numericRE finds what some resolvers read as an address: 2130706433, 0x7f.1, 0177.0.0.1.
	numericRE = regexp.MustCompile(`(^|\.)([0-9]+|0x[0-9a-f]*)$`)
	portRE    = regexp.MustCompile(`^[1-9][0-9]{0,4}$`)
)

// ParseEgress reads a rule.
func ParseEgress(text string) (EgressRule, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return EgressRule{}, fmt.Errorf("%q is not of the form HOST:PORT", text)
	}
	r := EgressRule{Host: strings.TrimSuffix(strings.ToLower(host), ".")}
	if addr, err := netip.ParseAddr(r.Host); err == nil && addr.Zone() == "" {
		r.Host = addr.Unmap().String()
	} else if name := strings.TrimPrefix(r.Host, "*."); r.Host != "*" && (len(name) > 253 || !hostRE.MatchString(name) || numericRE.MatchString(name)) {
		return EgressRule{}, fmt.Errorf("%q has no valid host: use a name, *.name, an address or *", text)
	}
	if port != "*" {
		if r.Port, err = strconv.Atoi(port); err != nil || !portRE.MatchString(port) || r.Port > 65535 {
			return EgressRule{}, fmt.Errorf("%q has no valid port: use 1 to 65535 or *", text)
		}
	}
	return r, nil
}

// Allows tells whether the rule is about port of host, which is a name or an address as ParseEgress writes it.
func (r EgressRule) Allows(host string, port int) bool {
	if r.Port != 0 && r.Port != port {
		return false
	}
	if below, ok := strings.CutPrefix(r.Host, "*"); ok {
		return below == "" || strings.HasSuffix(host, below)
	}
	return r.Host == host
}
