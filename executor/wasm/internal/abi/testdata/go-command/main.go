// The conformance function as a WASI command in Go.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

func main() {
	path, query := os.Getenv("PATH_INFO"), os.Getenv("QUERY_STRING")
	switch path {
	case "/hello":
		fmt.Println("hello")
	case "/echo":
		fmt.Printf("Content-Type: %s\nX-Request: %s %s %s\nX-Tag: %s\n\n", os.Getenv("CONTENT_TYPE"),
			os.Getenv("REQUEST_METHOD"), path, query, os.Getenv("HTTP_X_TAG"))
		buffer := make([]byte, 8<<10)
		for {
			n, err := os.Stdin.Read(buffer)
			os.Stdout.Write(buffer[:n])
			if err != nil {
				return
			}
		}
	case "/count":
		n, _ := io.Copy(io.Discard, os.Stdin)
		fmt.Println(n)
	case "/big":
		n, _ := strconv.Atoi(query)
		w := bufio.NewWriterSize(os.Stdout, 4<<10)
		for range n {
			w.WriteString(strings.Repeat("x", 1023) + "\n")
		}
		w.Flush()
	case "/teapot":
		fmt.Print("Status: 418 I'm a teapot\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\nshort and stout")
	case "/env":
		fmt.Print(os.Getenv("COLOUR"))
	case "/log":
		fmt.Fprintln(os.Stderr, "one line")
		fmt.Print("logged")
	case "/sleep":
		begun := time.Now()
		time.Sleep(20 * time.Millisecond)
		fmt.Print(time.Since(begun) >= 20*time.Millisecond)
	case "/exit":
		fmt.Fprintln(os.Stderr, "about to go")
		os.Exit(3)
	case "/panic":
		panic("on purpose")
	case "/partly":
		fmt.Println("half of it")
		panic("on purpose")
	case "/bad":
		fmt.Print("Content-Type: a/b\nA B: c\n\n")
	case "/files":
		if _, err := os.ReadFile("/etc/passwd"); err != nil {
			fmt.Println("none")
		}
	case "/nothing":
	}
}
