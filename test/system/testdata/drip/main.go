// Command drip streams a line every 50 ms until its caller leaves, and tells how many have left. At /events the
// lines are server-sent events.
package main

import (
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

func main() {
	l, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		log.Fatal(err)
	}
	var mu sync.Mutex
	left, changed := 0, make(chan struct{}, 100)
	http.HandleFunc("/cancelled", func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-changed:
		case <-time.After(5 * time.Second):
		}
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprint(w, left)
	})
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		line := "drop\n"
		if r.URL.Path == "/events" {
			line = "data: drop\n\n"
			w.Header().Set("Content-Type", "text/event-stream")
		}
		for {
			fmt.Fprint(w, line)
			if http.NewResponseController(w).Flush() != nil {
				return
			}
			select {
			case <-r.Context().Done():
				mu.Lock()
				left++
				mu.Unlock()
				changed <- struct{}{}
				return
			case <-tick.C:
			}
		}
	})
	log.Fatal(http.Serve(l, nil))
}
