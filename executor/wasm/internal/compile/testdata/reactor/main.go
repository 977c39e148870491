// A reactor that counts the requests it has seen since it was compiled,.
package main

import (
	"strconv"
	"unsafe"
)

//go:wasmimport lambent_v1 respond
func respond(status uint32, buf unsafe.Pointer, size uint32)

//go:wasmimport lambent_v1 write
func write(buf unsafe.Pointer, size uint32)

var seen int

//go:wasmexport handle
func handle() {
	var head [1]byte
	respond(200, unsafe.Pointer(&head[0]), 0)
	seen++
	body := []byte(strconv.Itoa(seen))
	write(unsafe.Pointer(&body[0]), uint32(len(body)))
}

func main() {}
