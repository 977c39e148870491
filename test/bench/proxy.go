package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

const proxyCommand = "serve-proxy"

// hostFields are what a shim wants of its host with each request; a server of its own takes no notice.
var hostFields = map[string]string{
	"Lambent-Invocation": "bench", "Lambent-Trigger": "http",
	"Lambent-Deadline": strconv.FormatInt(time.Now().Add(time.Hour).UnixMilli(), 10),
}

// serveProxy is the tuned baseline: httputil.ReverseProxy with 256 idle connections per host and a buffer
// pool, in front of the unix socket, with at most that many connections to it, 0 for no limit. It serves until it
// is killed.
func serveProxy(address, socket, connections string) error {
	limit, err := strconv.Atoi(connections)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	var dialer net.Dialer
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: "echo"})
			for name, value := range hostFields {
				r.Out.Header[name] = []string{value}
			}
		},
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return dialer.DialContext(ctx, "unix", socket)
			},
			MaxIdleConns: 256, MaxIdleConnsPerHost: 256, MaxConnsPerHost: limit,
		},
		BufferPool: &bufferPool{},
	}
	return http.Serve(l, proxy)
}

type bufferPool struct{ pool sync.Pool }

func (b *bufferPool) Get() []byte {
	if buf, ok := b.pool.Get().(*[]byte); ok {
		return *buf
	}
	return make([]byte, 32<<10)
}

func (b *bufferPool) Put(buf []byte) { b.pool.Put(&buf) }

// startProxy runs serveProxy in a process of its own, as Lambent is one.
func startProxy(ctx context.Context, socket string, connections int, body []byte) (t target, stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return t, nil, err
	}
	cmd := exec.CommandContext(ctx, self, proxyCommand, "127.0.0.1:0", socket, strconv.Itoa(connections))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return t, nil, err
	}
	if err := cmd.Start(); err != nil {
		return t, nil, err
	}
	stop = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() } // it serves until then
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		stop()
		return t, nil, err
	}
	t = post("ReverseProxy", "tcp", strings.TrimSpace(line), "echo", "/", body)
	t.pids = []int{cmd.Process.Pid}
	return t, stop, nil
}
