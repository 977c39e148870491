package system

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"lambent"
	"lambent/daemon"
	"lambent/executor/executortest"
	"lambent/internal/keypair"
	"lambent/internal/keypair/keypairtest"
)

func pair(dir, name string) keypair.Files {
	return keypair.Files{Cert: filepath.Join(dir, name+".pem"), Key: filepath.Join(dir, name+".key")}
}

// HTTP/1.1, HTTP/2, streams and WebSockets over TLS, to clients that trust in the certificate; a new one is taken in
// while connections live.
func TestTLS(t *testing.T) {
	certs := t.TempDir()
	one, two := pair(certs, "one"), pair(certs, "two")
	keypairtest.Write(t, one, time.Hour, "localhost", "127.0.0.1")
	keypairtest.Write(t, two, time.Hour, "www.example")
	n, err := tryStart(t, daemon.Config{Data: t.TempDir(), TLS: []keypair.Files{one, two}})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(n.at.Functions, "https://127.0.0.1:") || !strings.HasPrefix(n.at.Control, "http://127.0.0.1:") || n.at.CAFile != one.Cert {
		t.Errorf("endpoints %+v", n.at)
	}
	n.python("proto", "def handler(event, context): return event['headers']['x-forwarded-proto'] + event['requestContext']['http']['protocol']", nil)
	n.deploy("drip", files{"main": build(t, "testdata/drip")}, lambent.Settings{Runtime: "go"})
	fixture := t.TempDir()
	executortest.BuildFixture(t, fixture)
	program, err := os.ReadFile(filepath.Join(fixture, "fixture"))
	if err != nil {
		t.Fatal(err)
	}
	n.deploy("upper", files{"main": string(program)}, lambent.Settings{Runtime: "go"})
	port := n.at.Functions[strings.LastIndexByte(n.at.Functions, ':'):]
	curl := func(ca string, args ...string) (string, error) {
		args = append([]string{"-sS", "--max-time", "20", "--cacert", ca, "-w", " %{http_version}"}, args...)
		out, err := exec.CommandContext(t.Context(), "curl", args...).CombinedOutput()
		return string(out), err
	}
	for _, c := range []struct{ ca, flag, host, want string }{
		{one.Cert, "--http1.1", "127.0.0.1", " 1.1"},
		{one.Cert, "--http2", "localhost", " 2"},
		{one.Cert, "--tlsv1.2", "localhost", " 2"},
		{two.Cert, "--http2", "www.example", " 2"},
	} {
		out, err := curl(c.ca, c.flag, "--connect-to", "www.example"+port+":127.0.0.1"+port, "https://"+c.host+port+"/fn/proto/")
		if err != nil || !strings.Contains(out, "https") || !strings.HasSuffix(out, c.want) {
			t.Errorf("%s %s: %s, %v", c.flag, c.host, out, err)
		}
	}
	for _, args := range [][]string{
		{two.Cert, "https://localhost" + port + "/fn/proto/"},
		{one.Cert, "--tls-max", "1.1", "https://localhost" + port + "/fn/proto/"},
	} {
		if out, err := curl(args[0], args[1:]...); err == nil {
			t.Errorf("%s: %s", args, out)
		}
	}

	pool := x509.NewCertPool()
	trust := func(ca string) {
		t.Helper()
		raw, err := os.ReadFile(ca)
		if err != nil || !pool.AppendCertsFromPEM(raw) {
			t.Fatal(err)
		}
	}
	trust(one.Cert)
	client := func(h2 bool) *http.Client {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool.Clone()}, ForceAttemptHTTP2: h2}
		t.Cleanup(transport.CloseIdleConnections)
		return &http.Client{Transport: transport}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	socket, _, err := websocket.Dial(ctx, "wss://localhost"+port+"/fn/upper/ws", &websocket.DialOptions{HTTPClient: client(false)})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.CloseNow()
	echo := func(text string) {
		t.Helper()
		if err := socket.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := socket.Read(ctx); err != nil || string(got) != strings.ToUpper(text) {
			t.Fatalf("%s, %v", got, err)
		}
	}
	echo("before")

	keypairtest.Write(t, one, time.Hour, "localhost", "127.0.0.1")
	fresh := client(true)
	for attempt := range 100 { // a new certificate is seen within a second or two
		resp, err := fresh.Get("https://localhost" + port + "/fn/proto/")
		if err != nil {
			break
		}
		resp.Body.Close()
		fresh.CloseIdleConnections()
		if attempt == 99 {
			t.Fatal("the certificate did not change")
		}
		time.Sleep(50 * time.Millisecond)
	}
	trust(one.Cert)
	resp, err := client(true).Get("https://localhost" + port + "/fn/drip/")
	if err != nil || resp.ProtoMajor != 2 {
		t.Fatal(resp, err)
	}
	defer resp.Body.Close()
	lines := 0
	for scan := bufio.NewScanner(resp.Body); lines < 3 && scan.Scan(); { // it never ends
		lines++
	}
	if lines < 3 {
		t.Errorf("%d lines were streamed", lines)
	}
	echo("the connection from before lives")
}

func TestTLSMistakes(t *testing.T) {
	certs := t.TempDir()
	one, two := pair(certs, "one"), pair(certs, "two")
	keypairtest.Write(t, one, time.Hour, "localhost")
	keypairtest.Write(t, two, time.Hour, "localhost")
	for part, f := range map[string]keypair.Files{
		"no such file":   {Cert: filepath.Join(certs, "none"), Key: one.Key},
		"does not match": {Cert: one.Cert, Key: two.Key},
	} {
		if _, err := tryStart(t, daemon.Config{Data: t.TempDir(), TLS: []keypair.Files{f}}); !lambent.HasCode(err, lambent.CodeInvalidRequest) || !strings.Contains(fmt.Sprint(err), part) {
			t.Errorf("%s: %v", part, err)
		}
	}
}
