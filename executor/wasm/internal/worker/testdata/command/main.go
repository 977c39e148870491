// A program that answers by CGI with what it was asked.
package main

import (
	"fmt"
	"io"
	"os"
)

func main() {
	fmt.Printf("Content-Type: text/plain\n\n%s %s %s ", os.Getenv("REQUEST_METHOD"), os.Getenv("PATH_INFO"), os.Getenv("SECRET"))
	io.Copy(os.Stdout, os.Stdin)
}
