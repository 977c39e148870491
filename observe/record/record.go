// Package record keeps the latest invocation records: in memory, and in files for after a restart.
package record

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"log/slog"
	"time"

	"lambent"
	"lambent/observe/internal/journal"
)

// Options configures a Store. The zero value of a field but Dir means its default.
type Options struct {
	Dir          string       // made if missing
	Ring         int          // records in memory; default 16,384
	Segments     int          // files; default 8
	SegmentBytes int64        // size at which the next file begins; default 16 MiB
	Logger       *slog.Logger // told of losses; default slog.Default()
}

type entries = journal.Journal[lambent.Record]

// Store keeps records. To add one never blocks: what cannot be written is counted.
type Store struct{ *entries }

// Open opens the store in opt.Dir and begins to write to it. A line that was cut short by a crash is left out.
func Open(opt Options) (*Store, error) {
	j, err := journal.Open(journal.Options[lambent.Record]{
		Dir: opt.Dir, What: "invocation records", ID: func(r *lambent.Record) string { return r.ID },
		Append: func(text []byte, r *lambent.Record) []byte { return r.AppendJSON(text) }, Logger: opt.Logger,
		Ring: cmp.Or(opt.Ring, 16<<10), Segments: cmp.Or(opt.Segments, 8), SegmentBytes: cmp.Or(opt.SegmentBytes, 16<<20),
	})
	if err != nil {
		return nil, err
	}
	return &Store{j}, nil
}

// Get gives the record of an invocation; ok is false when there is none any more. It is written when the invocation
// has ended, so no file that was complete when the invocation was accepted can have it.
func (s *Store) Get(id string) (r lambent.Record, ok bool) {
	accepted, ok := timeOf(id)
	if !ok {
		return r, false
	}
	found := s.View().Latest(1, []byte(id), accepted, func(r *lambent.Record) bool { return r.ID == id })
	if len(found) == 0 {
		return r, false
	}
	return found[0], true
}

// List gives up to limit records of a function, the latest first. An empty namespace or function means all.
func (s *Store) List(namespace, function string, limit int) []lambent.Record {
	mark := []byte(namespace)
	if function != "" {
		mark = fmt.Appendf(nil, `"function":%q`, function)
	}
	return s.View().Latest(limit, mark, time.Time{}, func(r *lambent.Record) bool {
		return (namespace == "" || r.Namespace == namespace) && (function == "" || r.Function == function)
	})
}

// timeOf gives the time in a UUIDv7.
func timeOf(id string) (time.Time, bool) {
	if len(id) != 36 {
		return time.Time{}, false
	}
	var raw [8]byte
	if _, err := hex.Decode(raw[2:], []byte(id[:8]+id[9:13])); err != nil {
		return time.Time{}, false
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(raw[:]))), true
}
