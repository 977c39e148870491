package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"testing"
	"time"
)

func runShell(t *testing.T, script string) *child {
	t.Helper()
	c, err := start([]string{"/bin/sh", "-c", script}, os.Environ())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.kill()
		<-c.exited
		c.stdin.Close()
		c.stdout.Close()
		c.stderr.Close()
		<-c.said
	})
	return c
}

// What has left the process group may neither keep a request open, whatever it writes, nor cost what the
// program itself wrote.
func TestLastWords(t *testing.T) {
	const whole = 40 << 10 // of a pipe's 64 KiB
	c := runShell(t, fmt.Sprintf(`setsid sh -c 'for i in $(seq 200); do echo tick; echo tick >&2; sleep 0.05; done' & head -c %d /dev/zero`, whole))
	if text := c.failure(); text != "" {
		t.Fatal(text)
	}
	began := time.Now()
	out := make([]byte, 1)
	if _, err := c.stdout.Read(out); err != nil {
		t.Fatal(err)
	}
	<-c.said // the time is about over for stdout too, as when the host reads slowly
	rest, err := io.ReadAll(&c.stdout)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(append(out, rest...), []byte{0}); n != whole {
		t.Errorf("%d bytes of %d came", n, whole)
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("it took %v", d)
	}
}

// A thread is a process to the limit of the sandbox, and Go ends a program that gets none.
func TestNoThreadForEach(t *testing.T) {
	threads := func() int {
		list, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	before := threads()
	for range 40 {
		runShell(t, "exec cat")
	}
	if n := threads() - before; n > 10 {
		t.Errorf("40 programs take %d threads", n)
	}
}
