// A command that answers in capitals.
package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
)

func main() {
	body, err := io.ReadAll(os.Stdin)
	if err != nil {
		panic(err)
	}
	fmt.Printf("Content-Type: text/plain\n\n%s", bytes.ToUpper(body))
}
