package egress

import (
	"net"
	"net/netip"
	"strings"
	"testing"
)

func TestRefuse(t *testing.T) {
	p := New(Options{
		Permit: []netip.Prefix{
			netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("::ffff:10.2.0.0/112"),
			netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("fd00:1::/32"),
		},
		Own: func() []netip.AddrPort {
			return []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:8081"), netip.MustParseAddrPort("[::]:8080")}
		},
	})
	everything := New(Options{
		Permit: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")},
		Own:    p.own,
	})
	for _, c := range []struct {
		to             string
		refused        bool
		permittedByAll bool // when the operator permits everything
	}{
		{"93.184.216.34:443", false, true},
		{"[2606:2800:220:1::1]:443", false, true},
		{"192.0.2.1:443", false, true}, // documentation
		{"198.51.100.1:443", false, true},
		{"203.0.113.1:443", false, true},
		{"[2001:db8::1]:443", false, true},
		{"0.0.0.0:80", true, false},
		{"0.1.2.3:80", true, false},
		{"10.0.0.1:80", true, true},
		{"10.255.255.255:80", true, true},
		{"10.1.2.3:80", false, true}, // permitted
		{"10.2.2.3:80", false, true},
		{"11.0.0.1:80", false, true},
		{"100.64.0.1:80", true, true},
		{"100.127.255.255:80", true, true},
		{"100.128.0.1:80", false, true},
		{"127.0.0.1:80", false, true},
		{"127.0.0.1:8081", true, false}, // a listener of ours
		{"127.0.0.2:8081", false, true},
		{"127.9.9.9:8080", true, false}, // of all addresses
		{"[::1]:8080", true, false},
		{"[::1]:80", true, true},
		{"[::ffff:127.0.0.1]:8081", true, false},
		{"[::ffff:10.0.0.1]:80", true, true},
		{"[::ffff:93.184.216.34]:80", false, true},
		{"168.63.129.15:80", false, true},
		{"168.63.129.16:80", true, true}, // Azure's WireServer
		{"[::ffff:168.63.129.16]:32526", true, true},
		{"169.254.169.254:80", true, true},
		{"172.15.255.255:80", false, true},
		{"172.16.0.1:80", true, true},
		{"172.31.255.255:80", true, true},
		{"172.32.0.1:80", false, true},
		{"192.0.0.1:80", true, true},
		{"192.168.1.1:80", true, true},
		{"198.18.0.1:80", true, true},
		{"198.19.255.255:80", true, true},
		{"198.20.0.1:80", false, true},
		{"224.0.0.1:80", true, false},
		{"239.255.255.250:80", true, false},
		{"240.0.0.1:80", true, false},
		{"255.255.255.255:80", true, false},
		{"[::]:80", true, false},
		{"[::7f00:1]:80", true, true}, // IPv4-compatible 127.0.0.1
		{"[::a00:1]:80", true, true},
		{"[64:ff9b::7f00:1]:80", false, true}, // NAT64 of 127.0.0.1, which is permitted
		{"[64:ff9b::7f00:1]:8081", true, false},
		{"[64:ff9b::a00:1]:80", true, true},
		{"[64:ff9b::a9fe:a9fe]:80", true, true},
		{"[64:ff9b::5db8:d822]:80", false, true}, // of a public address
		{"[64:ff9b:1::5db8:d822]:80", true, true},
		{"[2002:a00:1::1]:80", true, true}, // 6to4
		{"[2002:a9fe:a9fe::]:80", true, true},
		{"[2002:0:0::1]:80", true, false},
		{"[2002:5db8:d822::1]:80", false, true},
		{"[2001:0:5db8:d822:0:0:f5ff:fffe]:80", true, true},  // Teredo client 10.0.0.1
		{"[2001:0:a00:1:0:0:a247:27dd]:80", true, true},      // Teredo server 10.0.0.1
		{"[2001:0:5db8:d822:0:0:a247:27dd]:80", false, true}, // both public
		{"[fc00::1]:80", true, true},
		{"[fdff::1]:80", true, true},
		{"[fd00:1::5]:80", false, true}, // permitted
		{"[fe80::1]:80", true, true},
		{"[fe80::1%lo]:80", true, false},
		{"[::1%lo]:80", true, false},
		{"[fec0::1]:80", true, true},
		{"[ff02::1]:80", true, false},
	} {
		to := netip.MustParseAddrPort(c.to)
		if why := p.refuse(to); (why != "") != c.refused {
			t.Errorf("%s: %q, want refused %v", c.to, why, c.refused)
		}
		if why := everything.refuse(to); (why == "") != c.permittedByAll {
			t.Errorf("%s, with everything permitted: %q, want permitted %v", c.to, why, c.permittedByAll)
		}
	}
	if why := p.refuse(netip.AddrPort{}); why == "" {
		t.Error("no address at all is not refused")
	}
}

// The machine's own addresses are refused, public ones too.
func TestRefuseOwnAddresses(t *testing.T) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	p := New(Options{})
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.(*net.IPNet).IP)
		if !ok {
			t.Fatalf("%v is no address", a)
		}
		if local, err := isLocal(ip.Unmap()); !local || err != nil {
			t.Errorf("%s is not local, %v", ip, err)
		}
		if why := p.refuse(netip.AddrPortFrom(ip, 80)); why == "" {
			t.Errorf("%s is not refused", ip)
		}
	}
	if local, err := isLocal(netip.MustParseAddr("93.184.216.34")); local || err != nil {
		t.Errorf("%v, %v", local, err)
	}
}

func TestParseTarget(t *testing.T) {
	for text, want := range map[string]string{
		"example.com:443": "example.com:443", "EXAMPLE.com.:443": "example.com:443", "93.184.216.34:80": "93.184.216.34:80",
		"[2001:DB8:0::1]:80": "[2001:db8::1]:80", "[::ffff:93.184.216.34]:80": "93.184.216.34:80", "_x.a-b.c1:1": "_x.a-b.c1:1",
		"example.com": "", "example.com:": "", "example.com:http": "", "example.com:0": "", "example.com:65536": "", "example.com:080": "",
		"example.com:+80": "", "example.com:80:80": "", "*:80": "", "*.example.com:80": "", "example.com:*": "", ":80": "",
		"a@example.com:80": "", "user:pw@example.com:80": "", "exam ple.com:80": "", "example.com:80\r\nx": "", "ex\x00ample.com:80": "",
		"2130706433:80": "", "0x7f000001:80": "", "0177.0.0.1:80": "", "127.1:80": "", "127.0.0.0x1:80": "", "1.2.3.4.5:80": "", "a.1:80": "",
		"[::1%lo]:80": "", "::1:80": "", "[127.0.0.1:80": "", "例え.jp:80": "", "%31%32%37.0.0.1:80": "", "http://example.com:80": "", "example.com..:80": "",
		"": "", ".:80": "", "a..b:80": "", "-a.b:80": "",
	} {
		got, err := parseTarget(text)
		if (err != nil) != (want == "") || err == nil && got.String() != want {
			t.Errorf("%q gives %s, %v, want %q", text, got, err, want)
		}
	}
}

// What is accepted is in the one form that rules have, so that no spelling gets around them.
func FuzzParseTarget(f *testing.F) {
	for _, seed := range []string{"example.com:443", "EXAMPLE.com.:80", "[::ffff:127.0.0.1]:1", "0x7f.1:80", "a@b:1", "[::1%lo]:1", "*:*"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, invalid := parseTarget(text)
		if invalid != nil {
			return
		}
		again, invalid := parseTarget(got.String())
		if invalid != nil || again != got {
			t.Errorf("%q gives %s, which gives %s, %v", text, got, again, invalid)
		}
		if addr, err := netip.ParseAddr(got.host); err == nil {
			if addr != addr.Unmap() || addr.Zone() != "" || addr.String() != got.host {
				t.Errorf("%q gives the address %s", text, got.host)
			}
			return
		}
		last := got.host[strings.LastIndexByte(got.host, '.')+1:]
		if strings.Trim(got.host, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "" || strings.Trim(last, "0123456789") == "" {
			t.Errorf("%q gives the name %q", text, got.host)
		}
	})
}
