package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
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
	ls.add(l)
	return l, nil
}

// inherit takes the listener over that f is.
func (ls *listeners) inherit(f *os.File) (net.Listener, error) {
	defer f.Close() // net has its own
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%s is no address of TCP", l.Addr()), l.Close())
	}
	ls.add(tcp)
	return tcp, nil
}

func (ls *listeners) add(l net.Listener) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.all = append(ls.all, l.Addr().(*net.TCPAddr).AddrPort())
}

func (ls *listeners) addresses() []netip.AddrPort {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return slices.Clone(ls.all)
}

func loopback(l net.Listener) bool { return l.Addr().(*net.TCPAddr).IP.IsLoopback() }

// urlOf gives a URL that this machine reaches l by; with certs it is one that their first is valid for, if there is one.
func urlOf(l net.Listener, certs *keypair.Store) string {
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

// loadCertificates reads those of the configuration.
func (n *node) loadCertificates() (err error) {
	if len(n.cfg.TLS) == 0 {
		return nil
	}
	if n.certs, err = keypair.Load(n.cfg.TLS, n.log); err != nil {
		return lambent.Errorf(lambent.CodeInvalidRequest, "TLS: %w", err).WithHint("--tls-cert and --tls-key name PEM files that belong together")
	}
	return nil
}

// manageCerts are those of the control listener.
func (n *node) manageCerts() *keypair.Store {
	if loopback(n.manage) {
		return nil
	}
	return n.certs
}

// openPublic opens what only one process has and the store is not, and writes where this one serves.
func (n *node) openPublic() error {
	if err := n.openPast(); err != nil {
		return err
	}
	n.at = Endpoints{Functions: urlOf(n.functions, n.certs), Control: urlOf(n.manage, n.manageCerts()), KeyFile: n.cfg.path("admin.key"), NewKey: n.newKey}
	if n.certs != nil {
		n.at.CAFile = n.cfg.TLS[0].Cert
	}
	return n.cfg.writeEndpoints(n.at)
}

// server is the server of l: HTTP/1.1 and HTTP/2, which clients choose by ALPN with certs and know beforehand
// without.
func (n *node) server(l net.Listener, h http.Handler, certs *keypair.Store) *drain.Server {
	s := n.httpServer(h)
	if certs == nil {
		s.Protocols.SetUnencryptedHTTP2(true)
		return drain.New(s, l)
	}
	s.Protocols.SetHTTP2(true)
	s.TLSConfig = &tls.Config{GetCertificate: certs.Certificate, MinVersion: tls.VersionTLS12}
	return drain.New(s, l)
}

func (n *node) httpServer(h http.Handler) *http.Server {
	s := &http.Server{
		Handler:           h,
		Protocols:         new(http.Protocols),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(n.log.Handler(), slog.LevelDebug),
	}
	s.Protocols.SetHTTP1(true)
	return s
}
