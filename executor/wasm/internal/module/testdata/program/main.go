// A program with most of what Go's compiler makes of programs; as a library, a reactor.
package main

import (
	"encoding/json"
	"os"
	"regexp"
)

var word = regexp.MustCompile(`\w+`)

//go:wasmexport handle
func handle() {
	_ = json.NewEncoder(os.Stdout).Encode(map[string]int{"words": len(word.FindAllString(os.Getenv("TEXT"), -1))})
}

func main() { handle() }
