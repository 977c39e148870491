// Command echo is the function that the benchmarks call: it answers with the request's body, at /version with
// $VERSION, and at /stream?for=10s with $VERSION ten times a second and "end".
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"
)

func main() {
	l, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.Serve(l, http.HandlerFunc(answer)))
}

func answer(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/version":
		fmt.Fprint(w, os.Getenv("VERSION"))
	case "/stream":
		stream(w, r)
	default:
		_, _ = io.Copy(w, r.Body)
	}
}

func stream(w http.ResponseWriter, r *http.Request) {
	length, err := time.ParseDuration(r.URL.Query().Get("for"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	flush := http.NewResponseController(w).Flush
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(length); time.Now().Before(end); <-tick.C {
		fmt.Fprintln(w, os.Getenv("VERSION"))
		if flush() != nil {
			return
		}
	}
	fmt.Fprintln(w, "end")
}
