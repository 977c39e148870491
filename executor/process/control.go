package process

import (
	"cmp"
	"encoding/json"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"lambent/internal/sandbox"
)

// readReports gives the lines of lambent-init to f.
func readReports(r io.Reader, f func(sandbox.Report)) {
	dec := json.NewDecoder(r)
	for {
		var report sandbox.Report
		if dec.Decode(&report) != nil {
			return // it has ended, or will be ended
		}
		f(report)
	}
}

// controlReader reads lambent-init's connection and keeps the descriptors that come with the bytes.
type controlReader struct {
	conn  *net.UnixConn
	files []*os.File
}

// maxFiles is SCM_MAX_FD of the kernel.
const maxFiles = 253

// Read implements io.Reader.
func (c *controlReader) Read(b []byte) (int, error) {
	var rights [maxFiles*4 + 32]byte
	n, size, _, _, err := c.conn.ReadMsgUnix(b, rights[:])
	n = max(n, 0) // -1 comes with an error
	if size == 0 {
		return n, err
	}
	messages, parseErr := unix.ParseSocketControlMessage(rights[:size])
	for _, m := range messages {
		fds, rightsErr := unix.ParseUnixRights(&m)
		for _, fd := range fds {
			c.files = append(c.files, os.NewFile(uintptr(fd), "socket"))
		}
		parseErr = cmp.Or(parseErr, rightsErr)
	}
	return n, cmp.Or(err, parseErr)
}

// take gives the descriptors that have come.
func (c *controlReader) take() []*os.File {
	files := c.files
	c.files = nil
	return files
}

// withEgress adds to the spec what the gate needs inside.
func (in *instance) withEgress(s sandbox.Spec) sandbox.Spec {
	if in.gate == nil {
		return s
	}
	s.Hosts = in.gate.Hosts()
	for _, at := range in.gate.Listen() {
		s.Listen = append(s.Listen, sandbox.Address{IP: at.Addr().As4(), Port: at.Port()})
	}
	return s
}

// openGate serves the sockets that lambent-init has made inside. Without them the function could not get out, so it
// ends, or is not adopted.
func (in *instance) openGate(sockets []*os.File) {
	switch err := in.gate.Serve(sockets); {
	case err == nil:
	case in.kept != nil:
		in.keep(err)
	default:
		in.end(sandbox.Report{Error: &sandbox.Failure{Step: "open the way out", Err: err.Error()}})
		_ = in.process.Kill() // an error means that it has ended already
	}
}
