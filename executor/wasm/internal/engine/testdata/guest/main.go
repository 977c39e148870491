// The guest in Go: a reactor that answers the body of the request as JSON, and keeps what it has seen, in vain.
package main

import (
	"encoding/json"
	"strings"
	"unsafe"
)

//go:wasmimport lambent_v1 request
func request(buf unsafe.Pointer, size uint32) uint32

//go:wasmimport lambent_v1 read
func read(buf unsafe.Pointer, size uint32) uint32

//go:wasmimport lambent_v1 write
func write(buf unsafe.Pointer, size uint32)

var (
	seen  []string
	cache = map[string]any{}
)

//go:wasmexport handle
func handle() {
	head, body := make([]byte, 4096), make([]byte, 4096)
	head = head[:request(unsafe.Pointer(&head[0]), 4096)]
	body = body[:read(unsafe.Pointer(&body[0]), 4096)]
	target := strings.Split(string(head), "\x00")[1]
	seen = append(seen, string(body))
	cache[string(body)] = seen
	answer := map[string]any{"target": target, "seen": len(seen), "cached": len(cache), "echo": string(body)}
	if target == "/grow" {
		cache["much"] = make([]byte, 8<<20)
	}
	text, err := json.Marshal(answer)
	if err != nil {
		panic(err)
	}
	write(unsafe.Pointer(&text[0]), uint32(len(text)))
}

func main() {}
