// Command journal is a server that says which requests it has read, as soon as it has, and answers with the digest of
// their bodies.
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
	"time"
)

func main() {
	l, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.Serve(reading{l}, http.HandlerFunc(answer)))
}

func answer(w http.ResponseWriter, r *http.Request) {
	digest := sha256.New()
	if _, err := io.Copy(digest, r.Body); err != nil {
		log.Print(err)
		return
	}
	time.Sleep(10 * time.Millisecond)
	fmt.Fprintf(w, "%x %s", digest.Sum(nil), r.Header.Get("Lambent-Attempt"))
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

// target finds the id of a request. While it answers, package http reads the first byte of the next by itself.
var target = regexp.MustCompile(`^P?OST /(r-[0-9]+) `)

func (c conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if id := target.FindSubmatch(p[:n]); id != nil {
		fmt.Printf("read %s\n", id[1])
	}
	return n, err
}
