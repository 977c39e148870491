package thread

import (
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestSpend(t *testing.T) {
	for range 100 {
		var tid int
		Spend(func() { tid = unix.Gettid() })
		if tid == os.Getpid() {
			t.Fatal("it ran on the first thread")
		}
		deadline := time.Now().Add(5 * time.Second)
		for {
			if _, err := os.Stat("/proc/self/task/" + strconv.Itoa(tid)); os.IsNotExist(err) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("thread %d lives on", tid)
			}
			runtime.Gosched()
		}
	}
}
