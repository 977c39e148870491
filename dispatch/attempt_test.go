package dispatch

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"lambent"
	"lambent/executor"
)

// upload gives a request with body, of unknown length.
func upload(rev *lambent.Revision, body io.Reader) *lambent.Invocation {
	return &lambent.Invocation{
		ID: lambent.NewID(), Revision: rev, Accepted: time.Now(), Method: "POST", Target: "/", Header: http.Header{},
		ContentLength: -1, Body: io.NopCloser(body),
	}
}

func TestAttempts(t *testing.T) {
	body := make([]byte, maxReplay+100)
	rand.Read(body)
	unsent := fmt.Errorf("%w: %w", lambent.Errorf(lambent.CodeBadResponse, "refused"), executor.ErrNotSent)
	exited, stopped := lambent.Errorf(lambent.CodeInstanceExited, "died"), lambent.Errorf(lambent.CodeInstanceStopped, "ended")
	hungry, raised := lambent.Errorf(lambent.CodeMemoryExceeded, "died"), lambent.Errorf(lambent.CodeHandlerError, "raised")
	alone := lambent.Errorf(lambent.CodeMemoryExceeded, "its own sandbox has ended, and the instance goes on")
	late := lambent.Errorf(lambent.CodeFirstByteTimeout, "late")
	for _, c := range []struct {
		name       string
		idempotent string
		key        bool
		read       int     // bytes of the body that an instance reads before it fails
		size       int     // of the body
		fails      []error // in this order, then it answers
		attempt    int     // of the invocation in the end
		want       lambent.Code
	}{
		{"never", lambent.IdempotentNever, true, 10, 100, []error{exited}, 0, lambent.CodeInstanceExited},
		{"always", lambent.IdempotentAlways, false, 10, 100, []error{exited, stopped}, 3, ""},
		{"at most three times", lambent.IdempotentAlways, false, 10, 100, []error{exited, exited, exited}, 3, lambent.CodeInstanceExited},
		{"memory twice", lambent.IdempotentAlways, false, 10, 100, []error{hungry, hungry}, 2, lambent.CodeMemoryExceeded},
		{"memory once", lambent.IdempotentAlways, false, 10, 100, []error{hungry}, 2, ""},
		{"memory of its own", lambent.IdempotentAlways, false, 10, 100, []error{alone}, 0, lambent.CodeMemoryExceeded},
		{"with a key", lambent.IdempotentKey, true, 100, 100, []error{exited}, 2, ""},
		{"without a key", lambent.IdempotentKey, false, 100, 100, []error{exited}, 0, lambent.CodeInstanceExited},
		{"an error", lambent.IdempotentAlways, false, 10, 100, []error{raised}, 0, lambent.CodeHandlerError},
		{"a timeout", lambent.IdempotentAlways, false, 10, 100, []error{late}, 0, lambent.CodeFirstByteTimeout},
		{"a body of a mebibyte", lambent.IdempotentAlways, false, maxReplay, maxReplay, []error{exited}, 2, ""},
		{"a long body that was hardly read", lambent.IdempotentAlways, false, 1000, maxReplay + 100, []error{exited}, 2, ""},
		{"a long body that was read", lambent.IdempotentAlways, false, maxReplay + 100, maxReplay + 100, []error{exited}, 0, lambent.CodeInstanceExited},
		{"never handed over", lambent.IdempotentNever, false, 0, 100, []error{unsent, unsent, unsent, unsent, unsent}, 0, ""},
		{"never handed over at all", lambent.IdempotentNever, false, 0, 100, []error{unsent, unsent, unsent, unsent, unsent, unsent, unsent, unsent, unsent, unsent}, 0, lambent.CodeBadResponse},
		{"handed over at last", lambent.IdempotentAlways, false, 0, 100, []error{unsent, unsent, exited}, 2, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				tries := 0
				w := &world{handle: func(_ context.Context, f *fake, inv *lambent.Invocation, _ time.Time) (*lambent.Response, error) {
					if tries++; tries <= len(c.fails) {
						err := c.fails[tries-1]
						if _, rerr := io.CopyN(io.Discard, inv.Body, int64(c.read)); rerr != nil {
							t.Error(rerr)
						}
						if !errors.Is(err, executor.ErrNotSent) {
							inv.Body.Close()
							if err != alone {
								f.die()
							}
						}
						return nil, err
					}
					if got, err := io.ReadAll(inv.Body); err != nil || !bytes.Equal(got, body[:c.size]) {
						t.Errorf("attempt %d got %d bytes of %d, %v", tries, len(got), c.size, err)
					}
					return answer(), nil
				}}
				d := open(t, w, nil)
				rev := revision(t, func(s *lambent.Settings) { s.Idempotent = c.idempotent })
				inv := upload(rev, bytes.NewReader(body[:c.size]))
				if c.key {
					inv.Header.Set("Idempotency-Key", `"8e03978e"`)
				}
				resp, err := d.Invoke(t.Context(), inv)
				if c.want != "" {
					wantCode(t, err, c.want)
				} else if err != nil {
					t.Fatal(err)
				} else if err := resp.Body.Close(); err != nil {
					t.Error(err)
				}
				if inv.Attempt != c.attempt {
					t.Errorf("it was attempt %d, want %d", inv.Attempt, c.attempt)
				}
			})
		})
	}
}

// The time in an instance that died with the request is handling, that in one which never got it is waiting.
func TestPhasesOfAttempts(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		tries := 0
		w := &world{boot: 100 * time.Millisecond, handle: func(_ context.Context, f *fake, _ *lambent.Invocation, _ time.Time) (*lambent.Response, error) {
			time.Sleep(20 * time.Second)
			switch tries++; tries {
			case 1:
				f.die()
				return nil, fmt.Errorf("%w: %w", lambent.Errorf(lambent.CodeInstanceExited, "died"), executor.ErrNotSent)
			case 2:
				f.die()
				return nil, lambent.Errorf(lambent.CodeInstanceExited, "died")
			}
			return answer(), nil
		}}
		d := open(t, w, nil)
		inv, err := invoke(t.Context(), d, revision(t, func(s *lambent.Settings) { s.Idempotent = lambent.IdempotentAlways }))
		if err != nil {
			t.Fatal(err)
		}
		p := inv.Outcome.Phases
		if p[lambent.PhaseHandler] != 40*time.Second || p[lambent.PhaseQueue] != 20*time.Second+2*w.boot || p[lambent.PhaseBoot] != w.boot {
			t.Errorf("the phases are %+v", p)
		}
	})
}

// Who goes from one dying instance to the next does not wait for another after the queue timeout.
func TestQueueTimeoutCountsUnsentAttempts(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := &world{boot: time.Second, handle: func(_ context.Context, f *fake, _ *lambent.Invocation, _ time.Time) (*lambent.Response, error) {
			time.Sleep(4 * time.Second)
			f.die()
			return nil, fmt.Errorf("%w: %w", lambent.Errorf(lambent.CodeInstanceExited, "died"), executor.ErrNotSent)
		}}
		d := open(t, w, nil)
		began := time.Now()
		_, err := invoke(t.Context(), d, revision(t, func(s *lambent.Settings) { s.Timeouts.Queue = lambent.Duration(12 * time.Second) }))
		wantCode(t, err, lambent.CodeQueueTimeout)
		if took := time.Since(began); took != 15*time.Second { // the third had it when its time to wait was over
			t.Errorf("it took %v", took)
		}
	})
}

// A node that stops lets an invocation that it has taken go to another instance.
func TestAttemptsWhileTheNodeStops(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		tries := 0
		w := &world{handle: func(_ context.Context, f *fake, _ *lambent.Invocation, _ time.Time) (*lambent.Response, error) {
			time.Sleep(2 * time.Second)
			if tries++; tries == 1 {
				f.die()
				return nil, fmt.Errorf("%w: %w", lambent.Errorf(lambent.CodeInstanceExited, "died"), executor.ErrNotSent)
			}
			return answer(), nil
		}}
		d := open(t, w, nil)
		rev := revision(t, nil)
		time.AfterFunc(time.Second, func() { d.Close(t.Context()) })
		if _, err := invoke(t.Context(), d, rev); err != nil || tries != 2 {
			t.Errorf("%v after %d tries", err, tries)
		}
		_, err := invoke(t.Context(), d, rev)
		wantCode(t, err, lambent.CodeShuttingDown)
	})
}

// A body of which an instance waited for more when it died goes on in the next one.
func TestAttemptsOfABodyThatComesSlowly(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		pr, pw := io.Pipe()
		closed := make(chan struct{})
		tries := 0
		w := &world{handle: func(_ context.Context, f *fake, inv *lambent.Invocation, _ time.Time) (*lambent.Response, error) {
			if tries++; tries == 1 {
				go func() {
					time.Sleep(time.Second)
					inv.Body.Close() // as an executor does whose reader waits
				}()
				if got, err := io.ReadAll(inv.Body); string(got) != "first " || err == nil {
					t.Errorf("the first got %q, %v", got, err)
				}
				f.die()
				return nil, lambent.Errorf(lambent.CodeInstanceExited, "died")
			}
			if got, err := io.ReadAll(inv.Body); string(got) != "first second" || err != nil {
				t.Errorf("the second got %q, %v", got, err)
			}
			return answer(), nil
		}}
		d := open(t, w, nil)
		inv := upload(revision(t, func(s *lambent.Settings) { s.Idempotent = lambent.IdempotentAlways }), nil)
		inv.Body = pr
		go func() {
			defer close(closed)
			io.WriteString(pw, "first ")
			time.Sleep(10 * time.Second)
			io.WriteString(pw, "second")
			pw.Close()
		}()
		resp, err := d.Invoke(t.Context(), inv)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		<-closed
	})
}

// When Invoke fails, nobody reads the body any more.
func TestBodyIsLeftAfterTheLastAttempt(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		pr, pw := io.Pipe()
		w := &world{handle: func(_ context.Context, f *fake, inv *lambent.Invocation, _ time.Time) (*lambent.Response, error) {
			go func() {
				time.Sleep(time.Second)
				inv.Body.Close()
			}()
			io.ReadAll(inv.Body)
			return nil, lambent.Errorf(lambent.CodeFirstByteTimeout, "late")
		}}
		d := open(t, w, nil)
		inv := upload(revision(t, func(s *lambent.Settings) { s.Idempotent = lambent.IdempotentAlways }), nil)
		inv.Body = pr
		_, err := d.Invoke(t.Context(), inv)
		wantCode(t, err, lambent.CodeFirstByteTimeout)
		if _, err := io.WriteString(pw, "more"); err != io.ErrClosedPipe {
			t.Errorf("the body is read on: %v", err)
		}
		synctest.Wait()
	})
}

func TestReplayGivesErrorsOfTheBody(t *testing.T) {
	r := newRecorder(io.NopCloser(io.MultiReader(bytes.NewReader([]byte("some")), iotest.ErrReader(errors.New("broken")))))
	for range 2 {
		if got, err := io.ReadAll(r.replay()); string(got) != "some" || err == nil || err.Error() != "broken" {
			t.Errorf("got %q, %v", got, err)
		}
	}
}

// deadTunnel is a switched connection whose function has died.
type deadTunnel struct {
	io.ReadCloser
	closed chan struct{}
}

func (deadTunnel) Write([]byte) (int, error) {
	return 0, lambent.Errorf(lambent.CodeInstanceExited, "killed by SIGKILL")
}

func (d deadTunnel) Read([]byte) (int, error) {
	<-d.closed
	return 0, io.EOF
}

func (deadTunnel) CloseWrite() error { return nil }

func (d deadTunnel) Close() error {
	close(d.closed)
	return nil
}

// Who writes to a WebSocket may be the first to meet the death of its function.
func TestDeathIsToldByWrites(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := &world{handle: func(context.Context, *fake, *lambent.Invocation, time.Time) (*lambent.Response, error) {
			return &lambent.Response{Status: 101, Body: deadTunnel{closed: make(chan struct{})}}, nil
		}}
		d := open(t, w, nil)
		inv := upload(revision(t, nil), nil)
		resp, err := d.Invoke(t.Context(), inv)
		if err != nil {
			t.Fatal(err)
		}
		_, err = resp.Body.(lambent.UpgradedBody).Write([]byte("x"))
		wantCode(t, err, lambent.CodeInstanceExited)
		resp.Body.Close()
		if e := inv.Outcome.Err; e == nil || e.Code != lambent.CodeInstanceExited || e.Invocation != inv.ID {
			t.Errorf("the outcome is %v", e)
		}
	})
}
