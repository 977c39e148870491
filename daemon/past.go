package daemon

import (
	"errors"
	"sync"
	"time"

	"lambent"
	"lambent/observe/logs"
	"lambent/observe/record"
	"lambent/observe/system"
)

// past takes what has happened: into the stores of this process or, when another has them, to that one.
type past struct {
	mu      sync.RWMutex // held for writing while what follows changes
	away    *outbox      // nil while the stores are here
	logs    *logs.Store
	records *record.Store
	events  *system.Store
}

// newPast keeps what happens until the stores are open.
func newPast() *past { return &past{away: newOutbox()} }

func (p *past) line(l lambent.LogLine)   { p.put(message{Line: &l}) }
func (p *past) record(r *lambent.Record) { p.put(message{Record: r}) }

// event takes e with the time of now, unless it has one.
func (p *past) event(e lambent.SystemEvent) {
	if e.Time.IsZero() {
		e.Time = time.Now().UTC()
	}
	p.put(message{Event: &e})
}

// put takes a line, a record or an event. It never blocks.
func (p *past) put(m message) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.away != nil {
		p.away.put(m)
		return
	}
	p.add(m)
}

// add gives m to its store. The lock is held.
func (p *past) add(m message) {
	switch {
	case m.Line != nil:
		p.logs.Add(*m.Line)
	case m.Record != nil:
		p.records.Add(m.Record)
	case m.Event != nil:
		p.events.Add(*m.Event)
	}
}

// losses tell how much of what the stores have lost.
func (p *past) losses() map[string]func() uint64 {
	counted := func(count func() uint64) func() uint64 {
		return func() uint64 {
			p.mu.RLock()
			defer p.mu.RUnlock()
			if p.away != nil {
				return 0
			}
			return count()
		}
	}
	return map[string]func() uint64{
		"records":       counted(func() uint64 { return p.records.Lost() }),
		"log_lines":     counted(func() uint64 { return p.logs.Lost() }),
		"system_events": counted(func() uint64 { return p.events.Lost() }),
	}
}

// lend closes the stores. What happens from now on goes to o, as does what was kept because they could not be opened.
func (p *past) lend(o *outbox) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.away
	p.away = o
	if was != nil {
		kept, _ := was.take()
		for _, m := range kept {
			o.put(m)
		}
		return nil
	}
	return errors.Join(p.records.Close(), p.events.Close(), p.logs.Close())
}

// open opens the stores, and gives them what happened before.
func (p *past) open(c *Config) (err error) {
	logs, err := logs.Open(logs.Options{Dir: c.path("logs"), Logger: c.Logger})
	if err != nil {
		return err
	}
	records, err := record.Open(record.Options{Dir: c.path("records"), Logger: c.Logger})
	if err != nil {
		return errors.Join(err, logs.Close())
	}
	events, err := system.Open(system.Options{Dir: c.path("events"), Logger: c.Logger})
	if err != nil {
		return errors.Join(err, logs.Close(), records.Close())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	kept, _ := p.away.take()
	p.away.tellLost(c.Logger)
	p.logs, p.records, p.events, p.away = logs, records, events, nil
	for _, m := range kept {
		p.add(m)
	}
	return nil
}
