package keypair_test

import (
	"bytes"
	"crypto/tls"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lambent/internal/keypair"
	"lambent/internal/keypair/keypairtest"
)

func files(dir, name string) keypair.Files {
	return keypair.Files{Cert: filepath.Join(dir, name+".pem"), Key: filepath.Join(dir, name+".key")}
}

// served gives the name of the certificate that a client which asks for server gets.
func served(t *testing.T, s *keypair.Store, server string) string {
	t.Helper()
	near, far := net.Pipe()
	defer near.Close()
	go func() {
		conn := tls.Server(far, &tls.Config{GetCertificate: s.Certificate, MinVersion: tls.VersionTLS12})
		_ = conn.Handshake() // the client tells
		far.Close()
	}()
	conn := tls.Client(near, &tls.Config{ServerName: server, InsecureSkipVerify: true}) // which certificate it is, is what is asked
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
}

func TestChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		a, b := files(dir, "a"), files(dir, "b")
		keypairtest.Write(t, a, time.Hour, "a.example")
		keypairtest.Write(t, b, time.Hour, "b.example", "*.b.example")
		var log bytes.Buffer
		s, err := keypair.Load([]keypair.Files{a, b}, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		for server, want := range map[string]string{"a.example": "a.example", "b.example": "b.example", "x.b.example": "b.example", "other": "a.example", "": "a.example"} {
			if got := served(t, s, server); got != want {
				t.Errorf("%q gets %s", server, got)
			}
		}
		keypairtest.Write(t, a, time.Hour, "a.example", "new") // the same name first, so that SNI finds it
		keypairtest.Write(t, a, time.Hour, "new", "a.example")
		if got := served(t, s, "a.example"); got != "a.example" {
			t.Errorf("it was looked at again at once: %s", got)
		}
		time.Sleep(2 * time.Second)
		if got := served(t, s, "a.example"); got != "new" {
			t.Errorf("a new pair is not taken in: %s", got)
		}
		for what, harm := range map[string]func() error{
			"no key":   func() error { return os.Remove(a.Key) },
			"garbage":  func() error { return os.WriteFile(a.Key, []byte("garbage"), 0o600) },
			"mismatch": func() error { raw, err := os.ReadFile(b.Key); return first(err, os.WriteFile(a.Key, raw, 0o600)) },
		} {
			log.Reset()
			if err := harm(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second)
			if got := served(t, s, "a.example"); got != "new" || !strings.Contains(log.String(), "the one before stays") {
				t.Errorf("%s: %s, %s", what, got, &log)
			}
			log.Reset()
			time.Sleep(2 * time.Second)
			if served(t, s, "a.example"); log.Len() > 0 {
				t.Errorf("%s: it is said again: %s", what, &log)
			}
		}
		keypairtest.Write(t, a, -time.Hour, "expired", "a.example")
		log.Reset()
		time.Sleep(2 * time.Second)
		if got := served(t, s, "a.example"); got != "expired" || !strings.Contains(log.String(), "has expired") {
			t.Errorf("expired: %s, %s", got, &log)
		}
	})
}

func first(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	a, b := files(dir, "a"), files(dir, "b")
	keypairtest.Write(t, a, time.Hour, "a.example")
	keypairtest.Write(t, b, time.Hour, "b.example")
	for part, f := range map[string]keypair.Files{
		"none.pem: no such file":     {Cert: filepath.Join(dir, "none.pem"), Key: a.Key},
		"none.key: no such file":     {Cert: a.Cert, Key: filepath.Join(dir, "none.key")},
		"does not match":             {Cert: a.Cert, Key: b.Key},
		"are no pair of certificate": {Cert: a.Key, Key: a.Cert},
	} {
		if _, err := keypair.Load([]keypair.Files{f}, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("got %v, want %q", err, part)
		}
	}
}
