// Command upgrade serves what may cross an upgrade: /echo, /slow?ms=N, /stream?ms=N with a line every 20 ms, and /ws,
// which echoes messages. Each answer has the process's start in X-Start, and is logged.
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/coder/websocket"
)

func main() {
	l, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		log.Fatal(err)
	}
	start := strconv.FormatInt(time.Now().UnixNano(), 36)
	wait := func(r *http.Request) time.Duration {
		ms, err := strconv.Atoi(r.FormValue("ms"))
		if err != nil {
			return time.Second
		}
		return time.Duration(ms) * time.Millisecond
	}
	http.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			log.Print("after ", len(body), " bytes: ", err)
		}
		_, _ = w.Write(body)
	})
	http.HandleFunc("/forwarded", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%q %q %q %q", r.Header["X-Forwarded-For"], r.Header["X-Forwarded-Proto"], r.Host, r.RequestURI)
	})
	http.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(wait(r))
		fmt.Println("slow", r.Header.Get("X-Request-Id"))
		fmt.Fprint(w, "slow")
	})
	http.HandleFunc("/stream", func(w http.ResponseWriter, r *http.Request) {
		for end := time.Now().Add(wait(r)); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			if _, err := io.WriteString(w, "line\n"); err != nil || http.NewResponseController(w).Flush() != nil {
				return
			}
		}
		io.WriteString(w, "end\n")
	})
	http.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		for {
			kind, text, err := c.Read(r.Context())
			if err != nil || c.Write(r.Context(), kind, text) != nil {
				return
			}
		}
	})
	log.Fatal(http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Start", start)
		http.DefaultServeMux.ServeHTTP(w, r)
	})))
}
