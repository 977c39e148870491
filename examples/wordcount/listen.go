package main

import (
	"cmp"
	"context"
	"net"
	"os"
	"strconv"
)

// Listener gives the socket that Lambent passes to a function as descriptor 3 (the LISTEN_FDS convention of
// sd_listen_fds(3)). Elsewhere it listens on 127.0.0.1:$PORT, 8000 when unset, so that `go run .` works.
func Listener() (net.Listener, error) {
	fds, pid := os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_PID")
	if fds == "" || fds == "0" || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		address := "127.0.0.1:" + cmp.Or(os.Getenv("PORT"), "8000")
		return new(net.ListenConfig).Listen(context.Background(), "tcp", address)
	}
	file := os.NewFile(3, "listener")
	defer file.Close()
	return net.FileListener(file)
}
