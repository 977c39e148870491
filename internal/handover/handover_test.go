package handover

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// TestMain is also the process that tests start: it answers each message with the text of the files that came.
func TestMain(m *testing.M) {
	c, err := Inherited()
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	case c != nil:
		if err := echo(c); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(4)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

type note struct {
	Text string
	Env  string
}

func echo(c *Conn) error {
	for {
		var n note
		files, err := c.Receive(&n)
		switch {
		case err == io.EOF:
			return nil
		case errors.Is(err, ErrLost):
			n.Text += " without"
		case err != nil:
			return err
		}
		answer := note{Text: n.Text, Env: os.Getenv(variable)}
		var back []syscall.Conn
		for _, f := range files {
			raw, err := io.ReadAll(f)
			if err != nil {
				return err
			}
			answer.Text += string(raw)
			back = append(back, f)
		}
		if err := c.Send(answer, back...); err != nil {
			return err
		}
	}
}

func started(t *testing.T) (*Conn, *exec.Cmd) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Stderr = os.Stderr
	c, err := Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(c.Close(), cmd.Wait()); err != nil {
			t.Error(err)
		}
	})
	return c, cmd
}

func TestMessagesWithDescriptors(t *testing.T) {
	c, _ := started(t)
	big := strings.Repeat("x", 1<<20)
	for i, texts := range [][]string{{}, {"a"}, {"b", "c", "d"}, {}, {big, big}} {
		var files []syscall.Conn
		for _, text := range texts {
			f, err := os.CreateTemp(t.TempDir(), "")
			if err == nil {
				_, err = f.WriteString(text)
			}
			if err == nil {
				_, err = f.Seek(0, io.SeekStart)
			}
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			files = append(files, f)
		}
		if err := c.Send(note{Text: fmt.Sprint(i)}, files...); err != nil {
			t.Fatal(err)
		}
		var got note
		back, err := c.Receive(&got)
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprint(i) + strings.Join(texts, ""); got.Text != want || got.Env != "" || len(back) != len(texts) {
			t.Errorf("%d: %d bytes with %d files, environment %q; want %d bytes", i, len(got.Text), len(back), got.Env, len(want))
		}
		for _, f := range back {
			f.Close()
		}
	}
}

// A process that has too many descriptors loses those of a message, and nothing else.
func TestTooManyDescriptors(t *testing.T) {
	c, cmd := started(t)
	file := func(text string) *os.File {
		r, w, err := os.Pipe()
		if err == nil {
			_, err = io.WriteString(w, text)
		}
		if err = errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		return r
	}
	exchange := func(text, want string, files ...syscall.Conn) {
		t.Helper()
		if err := c.Send(note{Text: text}, files...); err != nil {
			t.Fatal(err)
		}
		var got note
		back, err := c.Receive(&got)
		if err != nil || got.Text != want {
			t.Fatalf("got %q, %v; want %q", got.Text, err, want)
		}
		closeAll(back)
	}
	exchange("before", "before x", file(" x"))
	if err := unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: 100}, nil); err != nil {
		t.Fatal(err)
	}
	exchange("one", "one without", file("x"))
	exchange("two", "two without", file("x"), file("y"))
	exchange("none", "none")
	if err := unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 100, Max: 100}, nil); err != nil {
		t.Fatal(err)
	}
	exchange("again", "again x", file(" x"))
}

// Many senders at a time: messages stay whole, and descriptors with their messages.
func TestManySenders(t *testing.T) {
	a, file, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.FileConn(file)
	file.Close()
	if err != nil {
		t.Fatal(err)
	}
	from, to := newConn(a), newConn(conn.(*net.UnixConn))
	defer from.Close()
	defer to.Close()
	const senders, each = 8, 50
	var wg sync.WaitGroup
	for i := range senders {
		wg.Go(func() {
			for j := range each {
				r, w, err := os.Pipe()
				if err == nil {
					_, err = fmt.Fprintf(w, "%d/%d", i, j)
				}
				if err = errors.Join(err, w.Close(), from.Send(note{Text: fmt.Sprintf("%d/%d", i, j)}, r), r.Close()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range senders * each {
		var n note
		files, err := to.Receive(&n)
		if err != nil || len(files) != 1 {
			t.Fatal(len(files), err)
		}
		raw, err := io.ReadAll(files[0])
		if err = errors.Join(err, files[0].Close()); err != nil || string(raw) != n.Text {
			t.Fatalf("%q came with %q, %v", raw, n.Text, err)
		}
	}
	wg.Wait()
}

func TestEnd(t *testing.T) {
	for _, c := range []struct{ name, wire, want string }{
		{"silence", "", "EOF"},
		{"no JSON", "hello\n", "none"},
		{"other JSON", `{"message": 3}` + "\n", "none"},
		{"descriptors that did not come", `{"files": 2, "message": {}}` + "\n", "0 descriptors of 2"},
		{"too many to be true", `{"files": -1, "message": {}}` + "\n", "of -1"},
		{"endless", strings.Repeat(" ", MaxMessage+1), "too long"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, file, err := Pair()
			if err != nil {
				t.Fatal(err)
			}
			conn := newConn(a)
			defer conn.Close()
			go func() {
				_, _ = io.WriteString(file, c.wire) // the reader may give up before
				file.Close()
			}()
			var n note
			if _, err := conn.Receive(&n); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestInherited(t *testing.T) {
	for _, c := range []struct{ value, want string }{{"x", "no descriptor"}, {"1", "no descriptor"}, {"999", "no unix socket"}} {
		t.Setenv(variable, c.value)
		if _, err := Inherited(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.value, err)
		}
		if _, ok := os.LookupEnv(variable); ok {
			t.Error("the variable is still there")
		}
	}
}

func TestStartFails(t *testing.T) {
	if _, err := Start(exec.Command("/nonexistent")); err == nil {
		t.Error("started what is not there")
	}
}

func TestQueue(t *testing.T) {
	q := NewQueue()
	ours, theirs, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	if err := q.Put(theirs); err != nil {
		t.Fatal(err)
	}
	for range 200 { // nobody accepts yet
		a, b, err := Pair()
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		if err := q.Put(b); err != nil {
			t.Fatal(err)
		}
	}
	conn, err := q.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ours.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if n, err := conn.Read(make([]byte, 2)); n != 1 || err != nil {
		t.Error(n, err)
	}
	conn.Close()
	if err := errors.Join(q.Close(), q.Close()); err != nil {
		t.Error(err)
	}
	if _, err := q.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}
