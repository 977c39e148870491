// Command successor takes part in an upgrade up to a step and then does something else. Its name says what, such as
// exit-ready or hang-hello: the deed, and the step that it does not take any more.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"lambent/internal/handover"
)

func main() {
	deed, last, _ := strings.Cut(filepath.Base(os.Args[0]), "-")
	conn, err := handover.Inherited()
	if err != nil || conn == nil {
		fmt.Fprintln(os.Stderr, "nobody to succeed:", err)
		os.Exit(9)
	}
	says := []string{`{"step": "hello", "hello": {"protocol": 1, "version": "false"}}`, `{"step": "prepared"}`, `{"step": "ready"}`, `{"step": "open"}`}
	for i, step := range []string{"hello", "prepared", "ready", "open"} {
		if step == last {
			do(deed, conn)
		}
		var heard map[string]any
		if err := conn.Send(raw(says[i])); err == nil {
			_, err = conn.Receive(&heard)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(8)
		}
	}
}

type raw string

func (r raw) MarshalJSON() ([]byte, error) { return []byte(r), nil }

func do(deed string, conn *handover.Conn) {
	fmt.Fprintln(os.Stderr, "last words")
	switch deed {
	case "exit":
		os.Exit(7)
	case "spoil":
		store := filepath.Join(os.Args[slices.Index(os.Args, "--data")+1], "nats")
		if err := errors.Join(os.Rename(store, store+".away"), os.WriteFile(store, nil, 0o600)); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(7)
	case "panic":
		panic("on purpose")
	case "hang":
		var m any
		for {
			if _, err := conn.Receive(&m); err != nil {
				time.Sleep(time.Hour) // it must be killed
			}
		}
	case "lie":
		_ = conn.Send(raw(`{"step": "nonsense"}`))
		time.Sleep(time.Hour)
	case "old":
		_ = conn.Send(raw(`{"step": "hello", "hello": {"protocol": 0, "version": "old"}}`))
		time.Sleep(time.Hour)
	case "fail":
		_ = conn.Send(raw(`{"error": {"code": "internal", "fault": "platform", "message": "no luck", "hint": "try"}}`))
	}
}
