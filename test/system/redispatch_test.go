package system

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	mrand "math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lambent"
	"lambent/internal/sandbox"
)

// A function whose processes are killed under load fails the requests that it had read, if it is not idempotent, and
// no other; each body that is answered is whole.
func TestKilledFunctionsUnderLoad(t *testing.T) {
	program := build(t, "testdata/journal")
	for _, c := range []struct {
		concurrency int
		idempotent  string
	}{{1, lambent.IdempotentNever}, {20, lambent.IdempotentNever}, {20, lambent.IdempotentAlways}} {
		t.Run(fmt.Sprintf("%d at a time, idempotent %s", c.concurrency, c.idempotent), func(t *testing.T) {
			n := start(t, t.TempDir())
			n.deploy("journal", files{"main": program}, lambent.Settings{
				Runtime: "go", Concurrency: c.concurrency, MaxInstances: 4, Memory: 64, Idempotent: c.idempotent,
			})
			const kills, callers = 8, 24
			failed := map[string]string{} // the requests that failed, and how
			again := 0                    // those that were answered at another attempt
			var mu sync.Mutex
			var number atomic.Int64
			var answered [callers]atomic.Int64
			ctx, stop := context.WithCancel(t.Context())
			var all sync.WaitGroup
			for caller := range callers {
				all.Go(func() {
					for ; ctx.Err() == nil; answered[caller].Add(1) {
						id := fmt.Sprintf("r-%d", number.Add(1))
						attempt, failure := n.digest(id)
						mu.Lock()
						if attempt != "" {
							again++
						}
						if failure != "" {
							failed[id] = failure
						}
						mu.Unlock()
					}
				})
			}
			killed := 0
			for tries := 0; killed < kills && tries < 1000; tries++ {
				time.Sleep(time.Duration(20+mrand.IntN(200)) * time.Millisecond) // the pace, at no moment in particular
				if killFunction(t) {
					killed++
				}
				if c.idempotent == lambent.IdempotentNever {
					continue
				}
				for i := range answered { // three kills of one request would fail it
					for was, end := answered[i].Load(), time.Now().Add(20*time.Second); answered[i].Load() == was && time.Now().Before(end); {
						time.Sleep(time.Millisecond)
					}
				}
			}
			stop()
			all.Wait()
			read := map[string]bool{}
			for _, line := range n.lines("journal", "read ") {
				id := strings.TrimPrefix(line.Text, "read ")
				if read[id] && c.idempotent == lambent.IdempotentNever {
					t.Errorf("%s was given to a function twice", id)
				}
				read[id] = true
			}
			t.Logf("%d requests, %d kills, %d failed, %d were answered at another attempt", number.Load(), killed, len(failed), again)
			for id, how := range maps.All(failed) {
				if c.idempotent != lambent.IdempotentNever || !read[id] || !strings.Contains(how, "SIGKILL") {
					t.Errorf("%s, which was read: %t, failed: %s", id, read[id], how)
				}
			}
			if c.idempotent != lambent.IdempotentNever && again == 0 || killed < kills {
				t.Error("that proves nothing")
			}
		})
	}
}

// digest sends a request with a random body and gives which attempt of it was answered, "" for the first, and why it
// failed.
func (n *node) digest(id string) (attempt, failure string) {
	sizes := []int{0, 10, 3000, 20_000, 100_000}
	content := make([]byte, sizes[mrand.IntN(len(sizes))])
	rand.Read(content)
	var body io.Reader = bytes.NewReader(content)
	if mrand.IntN(2) == 0 {
		body = io.MultiReader(body) // of unknown length
	}
	resp, err := http.Post(n.at.Functions+"/fn/journal/"+id, "application/octet-stream", body)
	if err != nil {
		return "", err.Error()
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err.Error()
	}
	if resp.StatusCode != http.StatusOK {
		var e struct{ Error lambent.Error }
		if err := json.Unmarshal(raw, &e); err != nil || e.Error.Code != lambent.CodeInstanceExited || e.Error.Fault != lambent.FaultFunction {
			return "", fmt.Sprintf("%d %s", resp.StatusCode, raw)
		}
		return "", e.Error.Message
	}
	sum, attempt, _ := strings.Cut(string(raw), " ")
	if sum != fmt.Sprintf("%x", sha256.Sum256(content)) {
		return "", fmt.Sprintf("of its %d bytes others arrived", len(content))
	}
	return attempt, ""
}

// killFunction kills the function of one of this process's sandboxes, if there is one.
func killFunction(t *testing.T) bool {
	t.Helper()
	var programs []int
	for _, pid := range sandbox.Below(os.Getpid()) {
		if raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && bytes.HasPrefix(raw, []byte("/var/task/main\x00")) {
			programs = append(programs, pid)
		}
	}
	if len(programs) == 0 {
		return false
	}
	pid := programs[mrand.IntN(len(programs))]
	if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
		t.Fatal(err)
	}
	return true
}
