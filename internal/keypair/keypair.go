// Package keypair gives a TLS server its certificates from files, and takes in new ones when the files change.
package keypair

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Files are the PEM files of a certificate, with its chain, and of its key.
type Files struct{ Cert, Key string }

// Store holds the certificates of several pairs of files.
type Store struct {
	pairs []*pair
	log   *slog.Logger
}

type pair struct {
	files   Files
	current atomic.Pointer[tls.Certificate]

	mu     sync.Mutex
	looked time.Time // at the files; guarded by mu
	stamp  stamp     // of the files when they were read last; guarded by mu
}

// every is how often the files are looked at, at most, while connections are made.
const every = time.Second

// Load reads all pairs. The errors say which file is wrong and how.
func Load(pairs []Files, log *slog.Logger) (*Store, error) {
	s := &Store{log: log}
	for _, f := range pairs {
		p := &pair{files: f, looked: time.Now(), stamp: f.stamp()}
		cert, err := f.read()
		if err != nil {
			return nil, err
		}
		s.warn(f, cert)
		p.current.Store(cert)
		s.pairs = append(s.pairs, p)
	}
	return s, nil
}

func (f Files) read() (*tls.Certificate, error) {
	cert, err := os.ReadFile(f.Cert)
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(f.Key)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("%s and %s are no pair of certificate and key: %w", f.Cert, f.Key, err)
	}
	return &pair, nil
}

func (s *Store) warn(f Files, cert *tls.Certificate) {
	switch now := time.Now(); {
	case now.After(cert.Leaf.NotAfter):
		s.log.Warn("the certificate has expired: clients will refuse it", "file", f.Cert, "since", cert.Leaf.NotAfter)
	case now.Before(cert.Leaf.NotBefore):
		s.log.Warn("the certificate is not valid yet: clients will refuse it", "file", f.Cert, "from", cert.Leaf.NotBefore)
	}
}

// stamp tells whether files have changed.
type stamp [2]struct {
	modified time.Time
	size     int64
}

func (f Files) stamp() (st stamp) {
	for i, path := range []string{f.Cert, f.Key} {
		if info, err := os.Stat(path); err == nil { // reading tells what is wrong
			st[i].modified, st[i].size = info.ModTime(), info.Size()
		}
	}
	return st
}

// Leaf gives the certificate of the first pair.
func (s *Store) Leaf() *x509.Certificate { return s.pairs[0].current.Load().Leaf }

// Certificate is for [tls.Config.GetCertificate]: it gives the first certificate that suits the client, or the
// first of all. When files have changed it reads them again; while they are no valid pair the one before stays.
func (s *Store) Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	for _, p := range s.pairs {
		s.refresh(p)
	}
	for _, p := range s.pairs {
		if cert := p.current.Load(); hello.SupportsCertificate(cert) == nil {
			return cert, nil
		}
	}
	return s.pairs[0].current.Load(), nil
}

func (s *Store) refresh(p *pair) {
	if !p.mu.TryLock() {
		return // another connection looks
	}
	defer p.mu.Unlock()
	now := time.Now()
	if now.Sub(p.looked) < every {
		return
	}
	p.looked = now
	st := p.files.stamp()
	if st == p.stamp {
		return
	}
	p.stamp = st
	cert, err := p.files.read()
	if err != nil {
		s.log.Error("a certificate has changed and cannot be used: the one before stays", "file", p.files.Cert, "err", err)
		return
	}
	s.warn(p.files, cert)
	p.current.Store(cert)
	s.log.Info("a certificate has changed", "file", p.files.Cert, "until", cert.Leaf.NotAfter)
}
