// Package system keeps what happened to the node and its instances: in memory, in files for after a restart, and
// live for those who follow.
package system

import (
	"cmp"
	"context"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"lambent"
	"lambent/observe/internal/journal"
)

// Options configures a Store. The zero value of a field but Dir means its default.
type Options struct {
	Dir          string       // made if missing
	Ring         int          // events in memory; default 2048
	Segments     int          // files; default 4
	SegmentBytes int64        // size at which the next file begins; default 4 MiB
	Follow       int          // events that may wait for one who follows; default 1024
	Logger       *slog.Logger // told of losses; default slog.Default()
}

// Store keeps events. To add one never blocks: what cannot be written is counted, and who follows too slowly is
// told that it missed something.
type Store struct {
	*events
	waiting int // for a follower

	mu        sync.Mutex // guards what follows, and that followers are given what is added after their view
	followers map[*follower]struct{}
	closed    bool
}

type events = journal.Journal[lambent.SystemEvent]

type follower struct {
	events chan *lambent.SystemEvent // closed when it has missed one, or with the store
	missed bool
}

// Open opens the store in opt.Dir and begins to write to it. A line that was cut short by a crash is left out.
func Open(opt Options) (*Store, error) {
	j, err := journal.Open(journal.Options[lambent.SystemEvent]{
		Dir: opt.Dir, What: "system events", ID: func(e *lambent.SystemEvent) string { return e.ID }, Logger: opt.Logger,
		Ring: cmp.Or(opt.Ring, 2048), Segments: cmp.Or(opt.Segments, 4), SegmentBytes: cmp.Or(opt.SegmentBytes, 4<<20),
	})
	if err != nil {
		return nil, err
	}
	return &Store{events: j, waiting: cmp.Or(opt.Follow, 1024), followers: map[*follower]struct{}{}}, nil
}

// Add keeps e, with an id and the time of now where it has none. It never blocks.
func (s *Store) Add(e lambent.SystemEvent) {
	e.ID = cmp.Or(e.ID, lambent.NewID())
	if e.Time.IsZero() {
		e.Time = time.Now().UTC()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events.Add(&e)
	for f := range s.followers {
		select {
		case f.events <- &e:
		default:
			f.missed = true
			s.drop(f)
		}
	}
}

// Close writes what is queued, closes the files and ends those who follow.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	for f := range s.followers {
		s.drop(f)
	}
	s.mu.Unlock()
	return s.events.Close()
}

// Query says which events to read. Each field but Limit and Follow leaves out what is different, unless it is empty.
type Query struct {
	Namespace, Function string
	Kind                lambent.EventKind // or what stands before the dot of several
	Since               time.Time
	Limit               int  // how many of the latest to begin with
	Follow              bool // go on with new ones until the context or the store ends
}

func (q *Query) wants(e *lambent.SystemEvent) bool {
	return (q.Namespace == "" || e.Namespace == q.Namespace) && (q.Function == "" || e.Function == q.Function) &&
		(q.Kind == "" || e.Kind == q.Kind || strings.HasPrefix(string(e.Kind), string(q.Kind)+".")) && !e.Time.Before(q.Since)
}

// Read gives events in the order in which they were added. The sequence ends early with an error.
func (s *Store) Read(ctx context.Context, q Query) iter.Seq2[lambent.SystemEvent, error] {
	return func(yield func(lambent.SystemEvent, error) bool) {
		var f *follower
		var view journal.View[lambent.SystemEvent]
		if !q.Follow {
			view = s.View()
		} else {
			if f, view = s.follow(); f == nil {
				return // the store is closed
			}
			defer s.unfollow(f)
		}
		for _, e := range q.latest(view) {
			if !yield(e, nil) {
				return
			}
		}
		for f != nil {
			select {
			case e, ok := <-f.events:
				if !ok {
					if f.missed {
						yield(lambent.SystemEvent{}, lambent.Errorf(lambent.CodeQueueFull, "events come faster than they are read: %d wait", s.waiting).
							WithHint("read again from the time of the last one"))
					}
					return
				}
				if q.wants(e) && !yield(*e, nil) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

// Latest gives the latest events that q wants, in the order in which they were added. It does not follow.
func (s *Store) Latest(q Query) []lambent.SystemEvent { return q.latest(s.View()) }

func (q *Query) latest(view journal.View[lambent.SystemEvent]) []lambent.SystemEvent {
	found := view.Latest(q.Limit, []byte(cmp.Or(q.Function, q.Namespace)), q.Since, q.wants)
	slices.Reverse(found)
	return found
}

// follow gives a follower of what is added from now on, and what was there before; the follower is nil when the
// store is closed.
func (s *Store) follow() (*follower, journal.View[lambent.SystemEvent]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, journal.View[lambent.SystemEvent]{}
	}
	f := &follower{events: make(chan *lambent.SystemEvent, s.waiting)}
	s.followers[f] = struct{}{}
	return f, s.View()
}

func (s *Store) unfollow(f *follower) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, there := s.followers[f]; there {
		s.drop(f)
	}
}

// drop ends f. The lock is held.
func (s *Store) drop(f *follower) {
	delete(s.followers, f)
	close(f.events)
}
