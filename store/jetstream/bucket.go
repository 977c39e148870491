package jetstream

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"lambent/internal/embednats"
	"lambent/store"
)

const (
	// requestTimeout bounds the wait for any one answer of the server.
	requestTimeout = 10 * time.Second
	// The size of a batch in a scan, which holds two. For each batch NATS counts all that is still to come.
	scanMessages = 5000
	scanBytes    = 4 << 20
)

// Header fields. headerPrevious is ours: the revision that the message replaces, 0 for none; the rest is NATS's.
const (
	headerPrevious  = "Lambent-Previous"
	headerOperation = "KV-Operation"
	headerStatus    = "Status"
	headerPending   = "Nats-Num-Pending"
)

// bucket speaks to a JetStream KV bucket. It publishes and reads messages itself, because the KV client
// has neither atomic batches of writes nor reads in batches.
type bucket struct {
	server *embednats.Server
	conn   *nats.Conn
	dial   func() (net.Conn, error) // another connection
	js     jetstream.JetStream
	stream string // "KV_" and the bucket's name
	prefix string // of the subjects: "$KV.", the bucket's name and a dot
	batch  uint64 // names the last batch published; only the committer uses it
}

func newBucket(server *embednats.Server, name string) (*bucket, error) {
	js, err := jetstream.New(server.Conn(), jetstream.WithDefaultTimeout(requestTimeout))
	if err != nil {
		return nil, err
	}
	return &bucket{server: server, conn: server.Conn(), dial: server.InProcessConn, js: js, stream: "KV_" + name, prefix: "$KV." + name + "."}, nil
}

// create makes the stream, whose first message will have sequence first, configured as KV buckets are, but
// for AllowAtomicPublish.
func (b *bucket) create(ctx context.Context, first uint64) error {
	_, err := b.js.CreateStream(ctx, jetstream.StreamConfig{
		Name:               b.stream,
		Subjects:           []string{b.prefix + ">"},
		Storage:            jetstream.FileStorage,
		MaxMsgsPerSubject:  1,
		Discard:            jetstream.DiscardNew,
		AllowRollup:        true,
		AllowDirect:        true,
		DenyDelete:         true,
		AllowAtomicPublish: true,
		FirstSeq:           first,
	})
	return err
}

// last gives the sequence of the stream's last message; the error wraps jetstream.ErrStreamNotFound where
// the server knows no such stream.
func (b *bucket) last(ctx context.Context) (uint64, error) {
	stream, err := b.js.Stream(ctx, b.stream)
	if err != nil {
		return 0, err
	}
	return stream.CachedInfo().State.LastSeq, nil
}

// message is a message of the stream.
type message struct {
	store.Event
	previous string // headerPrevious
}

func (b *bucket) parse(m *nats.Msg) (message, error) {
	field := func(name string) string {
		if values := m.Header[name]; len(values) > 0 {
			return values[0]
		}
		return ""
	}
	key, ours := strings.CutPrefix(field("Nats-Subject"), b.prefix)
	seq, err := strconv.ParseUint(field("Nats-Sequence"), 10, 64)
	if !ours || err != nil {
		return message{}, fmt.Errorf("unexpected answer of the server: %v", m.Header)
	}
	out := message{previous: field(headerPrevious)}
	out.Entry = store.Entry{Key: key, Revision: seq}
	if field(headerOperation) != "" {
		out.Deleted = true
	} else {
		out.Value = m.Data
	}
	return out, nil
}

// get gives the last message of key, or store.ErrNotFound.
func (b *bucket) get(ctx context.Context, key string) (message, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	m, err := b.conn.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+b.stream+"."+b.prefix+key, nil)
	if err != nil {
		return message{}, err
	}
	if m.Header.Get(headerStatus) == "404" {
		return message{}, store.ErrNotFound
	}
	return b.parse(m)
}

// purge removes what the stream has of key, or of all if key is empty, up to sequence upTo, behind which it
// goes on in any case.
func (b *bucket) purge(ctx context.Context, key string, upTo uint64) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	request := jetstream.StreamPurgeRequest{Sequence: upTo + 1}
	if key != "" {
		request.Subject = b.prefix + key
	}
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	answer, err := b.conn.RequestWithContext(ctx, "$JS.API.STREAM.PURGE."+b.stream, body)
	if err != nil {
		return err
	}
	_, err = parseAnswer(answer.Data)
	return err
}

// errUnreadable means that there are messages from a sequence on that the server cannot read.
var errUnreadable = errors.New("NATS cannot read its message")

// scan gives the messages from sequence from on whose key begins with prefix, in their order: the fast way, and
// from where that fails on by direct gets, which tell what is wrong.
func (b *bucket) scan(ctx context.Context, prefix string, from uint64) iter.Seq2[message, error] {
	return func(yield func(message, error) bool) {
		for m, err := range b.flow(ctx, prefix, from) {
			if err != nil && ctx.Err() == nil {
				break
			}
			if !yield(m, err) || err != nil {
				return
			}
			from = m.Revision + 1
		}
		for m, err := range b.gets(ctx, prefix, from) {
			if !yield(m, err) {
				return
			}
		}
	}
}

// gets reads by direct gets.
func (b *bucket) gets(ctx context.Context, prefix string, from uint64) iter.Seq2[message, error] {
	return func(yield func(message, error) bool) {
		inbox := b.conn.NewInbox()
		sub, err := b.conn.SubscribeSync(inbox)
		if err != nil {
			yield(message{}, err)
			return
		}
		defer func() { _ = sub.Unsubscribe() }() // fails only when the connection is closed
		if err := b.requestScan(inbox, prefix, from); err != nil {
			yield(message{}, err)
			return
		}
		batch := make([]message, 0, scanMessages)
		for more, promised := true, false; more; promised = true {
			batch, more, err = b.receiveScan(ctx, sub, batch[:0])
			if err == nil && promised && len(batch) == 0 {
				err = fmt.Errorf("%w %d of %s", errUnreadable, from, b.stream)
			}
			if err == nil && more {
				// The server prepares the next batch while this one is used.
				from = batch[len(batch)-1].Revision + 1
				err = b.requestScan(inbox, prefix, from)
			}
			if err != nil {
				yield(message{}, err)
				return
			}
			for _, m := range batch {
				if !yield(m, nil) {
					return
				}
			}
		}
	}
}

func (b *bucket) requestScan(inbox, prefix string, from uint64) error {
	filter := ""
	if prefix != "" { // to match every subject against a filter that all pass would take longer than the rest
		filter = b.prefix + prefix + ">"
	}
	body, err := json.Marshal(struct {
		Seq      uint64 `json:"seq"`
		Subject  string `json:"next_by_subj,omitempty"`
		Batch    int    `json:"batch"`
		MaxBytes int    `json:"max_bytes"`
	}{max(from, 1), filter, scanMessages, scanBytes})
	if err != nil {
		return err
	}
	return b.conn.PublishRequest("$JS.API.DIRECT.GET."+b.stream, inbox, body)
}

// receiveScan appends one batch and tells whether there is more behind it.
func (b *bucket) receiveScan(ctx context.Context, sub *nats.Subscription, batch []message) ([]message, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return nil, false, err
		}
		switch m.Header.Get(headerStatus) {
		case "": // a message of the stream
		case "204": // the end of the batch
			return batch, len(batch) > 0 && m.Header.Get(headerPending) != "0", nil
		case "404": // nothing more to give
			return batch, false, nil
		default:
			return nil, false, fmt.Errorf("the server answered %v", m.Header)
		}
		parsed, err := b.parse(m)
		if err != nil {
			return nil, false, err
		}
		batch = append(batch, parsed)
	}
}

// smallBatch is how many messages are published faster one by one, each with its own sync of the disk, than
// by an atomic batch, for which NATS makes and removes a file store.
const smallBatch = 16

// publish appends changes behind the message with sequence last. If the stream's last message is another one
// the error wraps store.ErrConflict. On an error the first few may have been appended.
func (b *bucket) publish(ctx context.Context, changes []*write, last uint64) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if len(changes) > smallBatch {
		return b.publishAtomic(ctx, changes, last)
	}
	for i, w := range changes {
		before := last + uint64(i)
		m := b.message(w)
		m.Header[jetstream.ExpectedLastSeqHeader] = []string{strconv.FormatUint(before, 10)}
		if err := b.request(ctx, m, before+1); err != nil {
			return err
		}
	}
	return nil
}

// publishAtomic writes all or nothing, and syncs once; NATS's ADR-50 says how.
func (b *bucket) publishAtomic(ctx context.Context, changes []*write, last uint64) error {
	b.batch++
	id := strconv.FormatUint(b.batch, 10)
	for i, w := range changes {
		m := b.message(w)
		m.Header["Nats-Batch-Id"] = []string{id}
		m.Header["Nats-Batch-Sequence"] = []string{strconv.Itoa(i + 1)}
		if i == 0 {
			m.Header[jetstream.ExpectedLastSeqHeader] = []string{strconv.FormatUint(last, 10)}
		}
		if i == len(changes)-1 {
			m.Header["Nats-Batch-Commit"] = []string{"1"}
			return b.request(ctx, m, last+uint64(len(changes)))
		}
		if err := b.conn.PublishMsg(m); err != nil {
			return err
		}
	}
	return nil
}

func (b *bucket) message(w *write) *nats.Msg {
	m := &nats.Msg{Subject: b.prefix + w.key, Data: w.value, Header: nats.Header{
		headerPrevious: {strconv.FormatUint(w.previous, 10)},
	}}
	if w.deleted {
		m.Header[headerOperation] = []string{"DEL"}
	}
	return m
}

// faultEvery is how often a publish that waits looks whether the server is not going to answer.
const faultEvery = 200 * time.Millisecond

// request publishes m and checks that it was acknowledged with sequence seq.
func (b *bucket) request(ctx context.Context, m *nats.Msg, seq uint64) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go b.awaitFault(ctx, cancel)
	answer, err := b.conn.RequestMsgWithContext(ctx, m)
	if err != nil {
		return cmp.Or(context.Cause(ctx), err)
	}
	got, err := parseAnswer(answer.Data)
	if err == nil && got != seq {
		err = fmt.Errorf("unexpected answer of the server: %s", answer.Data)
	}
	return err
}

func (b *bucket) awaitFault(ctx context.Context, found context.CancelCauseFunc) {
	look := time.NewTicker(faultEvery)
	defer look.Stop()
	for {
		select {
		case <-look.C:
			if err := b.server.Fault(b.stream); err != nil {
				found(err)
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// parseAnswer gives the sequence that the server acknowledges, where it does, or the error that it tells of.
func parseAnswer(data []byte) (uint64, error) {
	var answer struct {
		Seq   uint64              `json:"seq"`
		Error *jetstream.APIError `json:"error"`
	}
	switch err := json.Unmarshal(data, &answer); {
	case err != nil:
		return 0, fmt.Errorf("unexpected answer of the server: %.200q: %w", data, err)
	case answer.Error != nil && answer.Error.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence:
		return 0, fmt.Errorf("%w: %w", store.ErrConflict, answer.Error)
	case answer.Error != nil:
		return 0, answer.Error
	}
	return answer.Seq, nil
}
