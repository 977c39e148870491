// The conformance function as a reactor in Go.
package main

import (
	"fixture/lambent"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

func init() { lambent.Handle(answer) }

func main() {}

func answer(w *lambent.ResponseWriter, r *lambent.Request) {
	switch r.Path {
	case "/hello":
		w.WriteString("hello\n")
	case "/echo":
		w.Header.Set("Content-Type", r.Header.Get("content-type"))
		w.Header.Add("X-Request", r.Method+" "+r.Path+" "+r.Query)
		w.Header.Add("X-Tag", r.Header.Get("X-TAG"))
		io.Copy(w, r.Body)
	case "/count":
		n, _ := io.Copy(io.Discard, r.Body)
		w.WriteString(strconv.Itoa(int(n)) + "\n")
	case "/big":
		n, _ := strconv.Atoi(r.Query)
		for range n {
			w.WriteString(strings.Repeat("x", 1023) + "\n")
		}
	case "/teapot":
		w.Header = lambent.Header{{Name: "Set-Cookie", Value: "a=1"}, {Name: "Set-Cookie", Value: "b=2"}}
		w.WriteHeader(418)
		w.WriteString("short and stout")
	case "/env":
		w.WriteString(lambent.Getenv("COLOUR") + lambent.Getenv("NONE"))
	case "/log":
		lambent.Log("one line")
		w.WriteString("logged")
	case "/sleep":
		begun := time.Now()
		time.Sleep(20 * time.Millisecond)
		w.WriteString(strconv.FormatBool(time.Since(begun) >= 20*time.Millisecond))
	case "/exit":
		os.Stderr.WriteString("about to go\n")
		os.Exit(3)
	case "/panic":
		panic("on purpose")
	case "/partly":
		w.WriteString("half of it")
		panic("on purpose")
	case "/bad":
		w.Header.Set("A B", "c")
		w.WriteHeader(200)
	case "/inject":
		w.Header.Set("Location", "/\x00Set-Cookie\x00id=1")
		w.WriteHeader(303)
	case "/nothing":
	}
}
