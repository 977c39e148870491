package wasm

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"lambent/executor"
	inside "lambent/executor/wasm/internal/worker" // worker is taken
)

// The names, in place of a program's own, that this binary is started under as a worker or compiler.
const (
	workerName   = "lambent-wasm-worker"
	compilerName = "lambent-wasm-compiler"
)

// isMain says that Main was called: this program can be started as a worker.
var isMain atomic.Bool

// Main is the first thing that a program with this executor does: where it was started as a worker or compiler it is one,
// and Main does not return.
func Main() {
	isMain.Store(true)
	var err error
	switch os.Args[0] {
	case workerName:
		err = work()
	case compilerName:
		err = compileOne()
	default:
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// socket is the one that this process was born with.
func socket() (*net.UnixConn, error) {
	f := os.NewFile(executor.JobOutput, "socket")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

// work is a worker. Its folder and memory are those of its sandbox.
func work() error {
	conn, err := socket()
	if err != nil {
		return err
	}
	page, err := takePage(conn)
	if err != nil {
		return err
	}
	memory, err := strconv.Atoi(os.Getenv("LAMBENT_MEMORY"))
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "worker-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	return inside.Run(conn, page, inside.Options{Dir: dir, Memory: int64(memory) << 20})
}

// handPage and takePage bring the file of a connection's shared page to the worker, before anything else.
func handPage(to *net.UnixConn, page *os.File) error {
	_, _, err := to.WriteMsgUnix([]byte{0}, unix.UnixRights(int(page.Fd())), nil)
	return err
}

func takePage(from *net.UnixConn) (*os.File, error) {
	rights := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := from.ReadMsgUnix(make([]byte, 1), rights)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	if err != nil || len(messages) != 1 {
		return nil, errors.Join(errors.New("no page came with the first byte"), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.Join(errors.New("no page came with the first byte"), err)
	}
	return os.NewFile(uintptr(fds[0]), "page"), nil
}
