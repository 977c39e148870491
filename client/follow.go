package client

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"maps"
	"net/url"
	"time"

	"lambent"
)

const (
	// overlap is how far behind the last line a stream begins again: lines need not be in order of their times.
	overlap = time.Second
	// reachTime is how long a node may be away that is followed, and reachEvery how often it is looked for.
	reachTime  = 3 * time.Second
	reachEvery = 100 * time.Millisecond
)

// follow gives lines, and those of again when the node says that it ends lines: it is upgraded or stopped. What it
// has given it does not give again; at tells the time of a line. It ends with an error when the node stays away.
func follow[T any](ctx context.Context, lines iter.Seq2[T, error], again func(since time.Time) iter.Seq2[T, error], at func(T) time.Time) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		last, given := time.Now(), map[string]time.Time{}
		var reached time.Time // when the node last was there; zero before the first time
		for {
			over := true
			for line, err := range lines {
				var away *url.Error
				if lambent.HasCode(err, lambent.CodeShuttingDown) {
					over, reached = false, time.Now()
					break
				}
				if errors.As(err, &away) && time.Since(reached) < reachTime {
					over = false
					break
				}
				if err == nil {
					key := string(encoded(line))
					if _, twice := given[key]; twice {
						continue
					}
					last = at(line)
					given[key] = last
					maps.DeleteFunc(given, func(_ string, t time.Time) bool { return t.Before(last.Add(-2 * overlap)) })
				}
				if !yield(line, err) || err != nil {
					return
				}
			}
			if over {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(reachEvery):
			}
			lines = again(last.Add(-overlap))
		}
	}
}

func encoded(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain data always marshals
	}
	return raw
}
