// Command server is the function of the chaos tests that is a server: /work, /stream, /upload and /ws. It journals
// the id of each request when it sees it and is about to read it, when it has read it, and when its work is done.
package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"regexp"
	"syscall"
	"time"

	"github.com/coder/websocket"
)

// journal is where the harness reads. To open it waits for the harness, so that no request is served before.
const journal = "/tmp/journal"

var writer *os.File

func main() {
	l, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		log.Fatal(err)
	}
	if os.Getenv("JOURNAL") != "" {
		if err := open(); err != nil {
			log.Fatal(err)
		}
		l = reading{l}
	}
	http.HandleFunc("/work", work)
	http.HandleFunc("/stream", stream)
	http.HandleFunc("/upload", upload)
	http.HandleFunc("/ws", socket)
	log.Fatal(http.Serve(l, nil))
}

func open() error {
	if err := syscall.Mkfifo(journal, 0o600); err != nil {
		return err
	}
	fd, err := syscall.Open(journal, syscall.O_WRONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	writer = os.NewFile(uintptr(fd), journal)
	return note("hello", os.Getenv("LAMBENT_INSTANCE")+" "+os.Getenv("LAMBENT_FUNCTION"))
}

// note writes a line with one write, which a pipe takes whole and keeps when we are killed.
func note(what, id string) error {
	if writer == nil {
		return nil
	}
	_, err := writer.WriteString(what + " " + id + "\n")
	return err
}

// reading is a listener whose connections journal what is read from them.
type reading struct{ net.Listener }

func (r reading) Accept() (net.Conn, error) {
	c, err := r.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return conn{c}, nil
}

type conn struct{ net.Conn }

// target finds the id of a request. While it answers, package http reads one byte of what may come next by itself.
var target = regexp.MustCompile(`^(?:P?OS|G?E)T [^ ]*[?&]id=([a-z0-9-]+)`)

func (c conn) Read(p []byte) (int, error) {
	id, err := c.peek()
	if err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(p)
	if id != "" && n > 1 {
		if err := note("read", id); err != nil {
			return 0, err
		}
	}
	return n, err
}

// peek waits until there is something to read and gives the id of the request that it is, if it is one.
func (c conn) peek() (id string, err error) {
	raw, err := c.Conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return "", err
	}
	var head [1 << 10]byte
	n := 0
	err = raw.Read(func(fd uintptr) bool {
		var err error
		n, _, err = syscall.Recvfrom(int(fd), head[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return err != syscall.EAGAIN
	})
	found := target.FindSubmatch(head[:max(n, 0)]) // a failure is the next read's to tell
	if err != nil || found == nil {
		return "", err
	}
	return string(found[1]), note("seen", string(found[1]))
}

// done is the end of the work on a request: the rest of its answer follows.
func done(w http.ResponseWriter, id string) {
	if err := note("done", id); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprintln(w, "done", id, os.Getenv("LAMBENT_INSTANCE"))
}

func work(w http.ResponseWriter, r *http.Request) {
	time.Sleep(10 * time.Millisecond)
	done(w, r.URL.Query().Get("id"))
}

// upload answers with the digest of what comes.
func upload(w http.ResponseWriter, r *http.Request) {
	hash := sha256.New()
	if _, err := io.Copy(hash, r.Body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, "%x\n", hash.Sum(nil))
	done(w, r.URL.Query().Get("id"))
}

// stream writes a number ten times a second, and the last line when it is done.
func stream(w http.ResponseWriter, r *http.Request) {
	length, err := time.ParseDuration(r.URL.Query().Get("for"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	flush := http.NewResponseController(w).Flush
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for i := range int(length / (100 * time.Millisecond)) {
		fmt.Fprintln(w, i)
		if flush() != nil {
			return
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
	done(w, r.URL.Query().Get("id"))
}

// socket is done when it is open. It sends each message, which is an id, back, until either side ends.
func socket(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, nil)
	if err != nil || note("done", r.URL.Query().Get("id")) != nil {
		return
	}
	defer func() { _ = c.CloseNow() }() // closed already, as a rule
	for {
		kind, id, err := c.Read(r.Context())
		if err != nil || note("read", string(id)) != nil {
			return
		}
		if note("done", string(id)) != nil || c.Write(r.Context(), kind, id) != nil {
			return
		}
	}
}
