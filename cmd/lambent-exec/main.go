// Command lambent-exec serves the runtime exec inside a sandbox: it takes HTTP requests on descriptor 3 and
// runs the program that its arguments name once for each, by CGI/1.1 (RFC 3875). The body is the program's stdin, what it
// writes to stdout is the answer, what it writes to stderr is the log.
//
// It is the only program of its sandbox beside the one that it runs, which has the same user: whatever that does
// to it, it does to itself.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

func main() {
	started := monotonic()
	if err := run(started); err != nil {
		fmt.Fprintln(os.Stderr, "lambent-exec:", err)
		os.Exit(1)
	}
}

func run(started int64) error {
	if len(os.Args) < 2 {
		return errors.New("usage: lambent-exec PROGRAM [ARGUMENT...], with a listening socket as descriptor 3")
	}
	const passed = 3
	syscall.CloseOnExec(passed)
	socket := os.NewFile(passed, "listener")
	listener, err := net.FileListener(socket)
	if err != nil {
		return fmt.Errorf("descriptor 3 is no listening socket: %w", err)
	}
	if err := socket.Close(); err != nil {
		return err
	}
	departures, err := watchDepartures()
	if err != nil {
		return err
	}
	s := &server{argv: os.Args[1:], env: ownEnvironment(), started: started, departures: departures}
	h := &http.Server{
		Handler: s, DisableGeneralOptionsHandler: true,
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, conn)
		},
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	go func() {
		<-term
		_ = h.Shutdown(context.Background()) // lambent-init ends us when the grace is over
		os.Exit(0)
	}()
	if err := h.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	select {} // until Shutdown is done
}

// monotonic reads the clock that the host reads too.
func monotonic() int64 {
	const clockMonotonic = 1
	var ts syscall.Timespec
	_, _, errno := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockMonotonic, uintptr(unsafe.Pointer(&ts)), 0)
	if errno != 0 {
		return 0 // cannot happen: the clock exists and the address is ours
	}
	return ts.Nano()
}

// ownEnvironment is what we got, without what is meant for us alone.
func ownEnvironment() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "LISTEN_") })
}

type connKey struct{}

// server runs a program for each request.
type server struct {
	argv       []string
	env        []string
	started    int64 // CLOCK_MONOTONIC in ns
	departures *departures
}

// ServeHTTP implements http.Handler.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodOptions || r.RequestURI != "*" {
		s.answer(w, r)
		return
	}
	info, err := os.Stat(s.argv[0])
	if err == nil && (!info.Mode().IsRegular() || info.Mode()&0o111 == 0) {
		err = fmt.Errorf("%s is not executable", s.argv[0])
	}
	if err != nil {
		report(w, "start_failed", s.argv[0], "cannot be executed: "+err.Error(), "")
		return
	}
	w.Header().Set("Lambent-Start", strconv.FormatInt(s.started, 10))
	w.WriteHeader(http.StatusNoContent)
}
