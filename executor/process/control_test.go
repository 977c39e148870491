package process

import (
	"net"
	"path/filepath"
	"testing"

	"lambent/internal/sandbox"
)

// TestControlIsReset has lambent-init end with an order unread, for which the kernel resets the connection.
func TestControlIsReset(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("unread")); err != nil {
		t.Fatal(err)
	}
	if err := far.Close(); err != nil {
		t.Fatal(err)
	}
	r := &controlReader{conn: conn.(*net.UnixConn)}
	readReports(r, func(sandbox.Report) { t.Error("a report came") })
	if n, err := r.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("read %d, %v", n, err)
	}
}
