package jetstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"lambent/store"
)

// ErrDamaged means that acknowledged writes are gone, or that nobody can tell. The error that wraps it says
// what was found and what to do; nothing has been changed on the disk.
var ErrDamaged = errors.New("acknowledged writes were lost")

// contents is what a scan of the whole stream found.
type contents struct {
	state
	live    map[string]uint64
	dead    map[string]uint64
	entries []store.Entry // the live ones, by revision
}

func newContents() *contents {
	return &contents{live: map[string]uint64{}, dead: map[string]uint64{}}
}

// Open opens the bucket, and makes it if there is none. It reads the whole bucket to prove that nothing is
// missing, and gives [ErrDamaged] otherwise.
func Open(ctx context.Context, opts Options) (*Store, error) {
	if opts.Reserve == 0 {
		opts.Reserve = DefaultReserve
	}
	opts.Logger = cmp.Or(opts.Logger, slog.Default()).With("bucket", opts.Bucket)
	b, err := newBucket(opts.Server, opts.Bucket)
	if err != nil {
		return nil, err
	}
	o := newOpening(opts, b)
	found, err := o.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", opts.Bucket, err)
	}
	mark, err := openWatermark(o.path)
	if err != nil {
		return nil, err
	}
	return start(opts, b, found, mark), nil
}

// opening is an Open under way.
type opening struct {
	Options
	bucket *bucket
	path   string // of the watermark
	dir    string // of the stream
}

func newOpening(opts Options, b *bucket) *opening {
	path := filepath.Join(opts.Server.Dir(), opts.Bucket+".watermark")
	return &opening{Options: opts, bucket: b, path: path, dir: opts.Server.StreamDir(b.stream)}
}

func (o *opening) open(ctx context.Context) (*contents, error) {
	acked, markErr := readWatermark(o.path)
	last, streamErr := o.bucket.last(ctx)
	noStream := errors.Is(streamErr, jetstream.ErrStreamNotFound)
	_, dirErr := os.Stat(o.dir)
	noDir := errors.Is(dirErr, os.ErrNotExist)
	switch {
	case streamErr != nil && !noStream:
		return nil, streamErr
	case dirErr != nil && !noDir:
		return nil, dirErr
	case noStream && noDir && errors.Is(markErr, os.ErrNotExist):
		return o.create(ctx)
	case noStream && markErr == nil && acked.Last == 0: // a crash in the midst of create
		return o.create(ctx)
	case noStream && o.AcceptLoss:
		return o.salvage(ctx, acked, markErr)
	case noStream:
		return nil, o.damaged(acked, markErr, "NATS could not restore the stream, and said why in the log")
	}
	found, missing, err := o.read(ctx, acked, last)
	switch {
	case err != nil:
		return nil, err
	case markErr == nil && missing == "":
		if found.Last > acked.Last {
			o.Logger.Info("kept writes that were not acknowledged before the last stop", "writes", found.Last-acked.Last)
		}
	case o.AcceptLoss:
		return o.salvage(ctx, acked, markErr)
	default:
		return nil, o.damaged(acked, markErr, describe(found.state, nil)+missing)
	}
	if found.state == acked {
		return found, nil
	}
	return found, overwriteWatermark(o.path, found.state)
}

// create makes an empty bucket. The watermark comes first, so that a stream without one always means damage.
func (o *opening) create(ctx context.Context) (*contents, error) {
	if err := o.setAside(false); err != nil {
		return nil, err
	}
	if err := createWatermark(o.path, state{}); err != nil {
		return nil, err
	}
	return newContents(), o.bucket.create(ctx, 1)
}

// salvage writes the entries that are left anew, to an emptied stream. The damaged one cannot stay in use: at its
// next start NATS may find entries in it that had been replaced. The watermark is written last, so that Open
// still refuses what a crash has left here.
func (o *opening) salvage(ctx context.Context, acked state, markErr error) (*contents, error) {
	var left []*write
	last, err := o.bucket.last(ctx)
	known := err == nil
	if known {
		if left, err = o.leftOver(ctx, last); err != nil {
			return nil, err
		}
	}
	if err := o.setAside(known); err != nil {
		return nil, err
	}
	found := newContents()
	found.Last = max(last, acked.Last) // revisions go on from here
	if known {
		err = o.bucket.purge(ctx, "", found.Last)
	} else {
		err = o.bucket.create(ctx, found.Last+1)
	}
	if err != nil {
		return nil, err
	}
	for batch := range slices.Chunk(left, 100) {
		if err := o.bucket.publish(ctx, batch, found.Last); err != nil {
			return nil, err
		}
		for _, w := range batch {
			found.Last++
			found.live[w.key] = found.Last
			found.add(w.key, found.Last)
			found.entries = append(found.entries, store.Entry{Key: w.key, Value: w.value, Revision: found.Last})
		}
	}
	o.Logger.Warn("accepted a loss", "watermark", describe(acked, markErr), "kept", found.Live)
	return found, createWatermark(o.path, found.state)
}

// leftOver reads the live entries, and steps over messages that cannot be read.
func (o *opening) leftOver(ctx context.Context, last uint64) ([]*write, error) {
	live := map[string]*write{}
	for from := uint64(1); from <= last; from++ {
		for m, err := range o.bucket.scan(ctx, "", from) {
			if errors.Is(err, errUnreadable) {
				break
			}
			if err != nil {
				return nil, err
			}
			from = m.Revision
			delete(live, m.Key)
			if !m.Deleted {
				live[m.Key] = &write{key: m.Key, value: m.Value}
			}
		}
	}
	return slices.Collect(maps.Values(live)), nil
}

// setAside keeps the stream's files, where there are any, in a directory that NATS does not look at: a copy of
// them, if it uses them.
func (o *opening) setAside(inUse bool) error {
	aside := fmt.Sprintf("%s.damaged-%d", filepath.Join(o.Server.Dir(), o.bucket.stream), time.Now().UnixNano())
	var err error
	if inUse {
		err = os.CopyFS(aside, os.DirFS(o.dir))
	} else {
		err = os.Rename(o.dir, aside)
	}
	if err == nil {
		o.Logger.Warn("keeping the damaged files", "dir", aside)
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// read scans the stream, whose last message is last. Missing says what is not there although it was
// acknowledged, or is empty: then the live keys up to the watermark, together with those that the messages
// behind it replaced, are exactly the ones that the watermark counts and sums.
func (o *opening) read(ctx context.Context, acked state, last uint64) (found *contents, missing string, err error) {
	found = newContents()
	before := state{Last: acked.Last} // as it was at the watermark, if nothing is missing
	for m, err := range o.bucket.scan(ctx, "", 1) {
		if errors.Is(err, errUnreadable) {
			break
		}
		if err != nil {
			return nil, "", err
		}
		old := found.live[m.Key]
		if old != 0 {
			found.remove(m.Key, old)
		}
		if m.Deleted {
			delete(found.live, m.Key)
			found.dead[m.Key] = m.Revision
		} else {
			found.live[m.Key] = m.Revision
			found.add(m.Key, m.Revision)
			found.entries = append(found.entries, m.Entry)
			delete(found.dead, m.Key)
		}
		if m.Revision <= acked.Last {
			before.Live, before.Sum = found.Live, found.Sum
			continue
		}
		previous, err := strconv.ParseUint(m.previous, 10, 64)
		switch {
		case err != nil || previous > acked.Last:
			missing = fmt.Sprintf(", and message %d replaces %q, which is not at or before the watermark", m.Revision, m.previous)
		case previous != 0 && old == 0: // NATS has dropped it in favour of this one
			before.add(m.Key, previous)
		}
	}
	found.entries = slices.DeleteFunc(found.entries, func(e store.Entry) bool { return found.live[e.Key] != e.Revision })
	found.Last = last
	if missing == "" && (last < acked.Last || before != acked) {
		missing = ", which are not the acknowledged ones"
	}
	return found, missing, nil
}

func describe(s state, err error) string {
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("sequence %d with %d live keys", s.Last, s.Live)
}

func (o *opening) damaged(acked state, markErr error, found string) error {
	return fmt.Errorf("%w: %s, watermark %s: acknowledged up to %s; found %s. "+
		"Restore both from one backup, or open with AcceptLoss to go on with what is left",
		ErrDamaged, o.dir, o.path, describe(acked, markErr), found)
}
