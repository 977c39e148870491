// A reactor that counts the requests it has seen since it was compiled, and answers 404 to those for /missing.
package main

import (
	"strconv"
	"strings"
	"unsafe"
)

//go:wasmimport lambent_v1 request
func request(buf unsafe.Pointer, size uint32) uint32

//go:wasmimport lambent_v1 respond
func respond(status uint32, buf unsafe.Pointer, size uint32)

//go:wasmimport lambent_v1 write
func write(buf unsafe.Pointer, size uint32)

var seen int

//go:wasmexport handle
func handle() {
	var head [1024]byte
	n := request(unsafe.Pointer(&head[0]), uint32(len(head)))
	status := uint32(200)
	if strings.Contains(string(head[:n]), "/missing") {
		status = 404
	}
	respond(status, unsafe.Pointer(&head[0]), 0)
	seen++
	body := []byte(strconv.Itoa(seen))
	write(unsafe.Pointer(&body[0]), uint32(len(body)))
}

func main() {}
