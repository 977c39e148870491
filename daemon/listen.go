package daemon

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"lambent"
	"lambent/internal/drain"
	"lambent/internal/keypair"
)

// listeners knows where this daemon listens: functions must not get there, whatever their egress rules say.
type listeners struct {
	mu  sync.Mutex
	all []netip.AddrPort
}

func (ls *listeners) listen(address string) (net.Listener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // it would keep a drain from emptying the queue
	l, err := lc.Listen(context.Background(), "tcp", address)
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

func loopback(l net.Listener) bool { return l.Addr().(*net.TCPAddr).IP.IsLoopback() }

// url gives a URL that this machine reaches l by; with certs it is one that their first is valid for, if there is one.
func url(l net.Listener, certs *keypair.Store) string {
	addr := l.Addr().(*net.TCPAddr)
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		panic(err) // a TCP address is host and port
	}
	if addr.IP.IsUnspecified() {
		host = "127.0.0.1"
	}
	if certs == nil {
		return "http://" + net.JoinHostPort(host, port)
	}
	if leaf := certs.Leaf(); leaf.VerifyHostname(host) != nil {
		for _, name := range leaf.DNSNames {
			if !strings.HasPrefix(name, "*") {
				host = name
				break
			}
		}
	}
	return "https://" + net.JoinHostPort(host, port)
}

// certificates reads those of the configuration; nil when there are none.
func (n *node) certificates() (*keypair.Store, error) {
	if len(n.cfg.TLS) == 0 {
		return nil, nil
	}
	certs, err := keypair.Load(n.cfg.TLS, n.log)
	if err != nil {
		return nil, lambent.Errorf(lambent.CodeInvalidRequest, "TLS: %w", err).WithHint("--tls-cert and --tls-key name PEM files that belong together")
	}
	return certs, nil
}

// server is the server of l: HTTP/1.1 and HTTP/2, which clients choose by ALPN with certs and know beforehand
// without.
func (n *node) server(l net.Listener, h http.Handler, certs *keypair.Store) *drain.Server {
	s := &http.Server{
		Handler:           h,
		Protocols:         new(http.Protocols),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(n.log.Handler(), slog.LevelDebug),
	}
	s.Protocols.SetHTTP1(true)
	if certs == nil {
		s.Protocols.SetUnencryptedHTTP2(true)
		return drain.New(s, l)
	}
	s.Protocols.SetHTTP2(true)
	s.TLSConfig = &tls.Config{GetCertificate: certs.Certificate, MinVersion: tls.VersionTLS12}
	return drain.New(s, l)
}
