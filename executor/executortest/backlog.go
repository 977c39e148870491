package executortest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"

	"lambent"
	"lambent/executor"
)

// testBacklog has an instance die with requests that it has accepted, and others that it has not.
func testBacklog(t *testing.T, k *kit) {
	const accepted, waiting = 4, 40
	r := k.start(t, func(s *lambent.Settings) { s.Concurrency = accepted + waiting })
	var streams []*http.Response
	for range accepted {
		resp, err := r.RoundTrip(request(t, "GET", "/drip?n=1&stall=1", ""))
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, resp)
	}
	r.must(t, "/deaf?ms=500")
	var all sync.WaitGroup
	for i := range waiting {
		all.Go(func() {
			content := strings.Repeat(fmt.Sprint("body ", i), 1<<(i%15))
			inv := r.invocation(request(t, "POST", "/echo", content))
			if i%2 == 0 {
				inv.ContentLength = -1
			}
			_, err := r.Handle(t.Context(), inv, inv.Accepted.Add(patience))
			if !errors.Is(err, executor.ErrNotSent) || !lambent.HasCode(err, lambent.CodeInstanceExited) {
				t.Errorf("request %d, which it has not accepted, fails with %v", i, err)
				return
			}
			if body, err := io.ReadAll(inv.Body); string(body) != content || err != nil {
				t.Errorf("of %d bytes %d are left for another instance, %v", len(content), len(body), err)
			}
		})
	}
	for _, resp := range streams {
		_, err := io.ReadAll(resp.Body)
		if errors.Is(err, executor.ErrNotSent) {
			t.Errorf("a request that it was answering counts as not sent: %v", err)
		}
		want(t, err, lambent.CodeInstanceExited, "SIGKILL")
		resp.Body.Close()
	}
	all.Wait()
}

func testExitInWebSocket(t *testing.T, k *kit) {
	r := k.start(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, "ws://fixture.test/ws?exit=1", &websocket.DialOptions{HTTPClient: &http.Client{Transport: r}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	_, _, err = conn.Read(ctx)
	want(t, err, lambent.CodeInstanceExited, "code 3")
}
