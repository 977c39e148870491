package pipes_test

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"lambent/internal/pipes"
)

func TestDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := pipes.Listen()
		go func() {
			c, err := l.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			io.WriteString(c, "hello")
			c.Close()
		}()
		c, err := l.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); string(got) != "hello" || err != nil {
			t.Errorf("%q, %v", got, err)
		}

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := l.Dial(ctx); err != context.DeadlineExceeded {
			t.Errorf("nobody accepts: %v", err)
		}
		for range 2 {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		}
		if _, err := l.Accept(); err != net.ErrClosed {
			t.Errorf("accept when it is closed: %v", err)
		}
		if _, err := l.Dial(t.Context()); err != net.ErrClosed {
			t.Errorf("dial when it is closed: %v", err)
		}
	})
}
