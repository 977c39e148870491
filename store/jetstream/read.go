package jetstream

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// stallTimeout is how long the server may take for the next message.
	stallTimeout = 5 * time.Second
	readMessages = 2000    // asked for at a time, of which two times may be under way
	readBytes    = 4 << 20 // of them; the server drops a connection that lets 64 MiB wait
)

// flow gives the messages from sequence from on whose key begins with prefix, in their order. It ends when
// the server says that nothing is left, so it misses nothing that is there all the time, whatever is written
// meanwhile. Where the server cannot read a message it just says nothing more, and flow fails.
//
// It reads from a consumer, through a connection of its own and with a parser of its own for the few
// lines of the NATS protocol that come: a node reads all that it knows when it starts, and what the
// client library makes of each message costs more than all the rest.
func (b *bucket) flow(ctx context.Context, prefix string, from uint64) iter.Seq2[message, error] {
	return func(yield func(message, error) bool) {
		r, err := b.openReader(ctx, prefix, from)
		if err != nil {
			yield(message{}, err)
			return
		}
		defer r.close()
		for {
			m, err := r.next()
			if err == io.EOF || !yield(m, err) || err != nil {
				return
			}
		}
	}
}

// reader is a flow under way.
type reader struct {
	b        *bucket
	consumer string
	conn     net.Conn
	in       *bufio.Reader
	inbox    string
	asked    int // messages that the server may still send without being asked
	stop     func() bool
}

func (b *bucket) openReader(ctx context.Context, prefix string, from uint64) (*reader, error) {
	consumer, err := b.js.CreateConsumer(ctx, b.stream, jetstream.ConsumerConfig{
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       max(from, 1),
		FilterSubject:     b.prefix + prefix + ">",
		AckPolicy:         jetstream.AckNonePolicy,
		MemoryStorage:     true,
		InactiveThreshold: time.Minute,
	})
	if err != nil {
		return nil, err
	}
	r := &reader{b: b, consumer: consumer.CachedInfo().Name, inbox: b.conn.NewInbox()}
	if r.conn, err = b.dial(); err != nil {
		r.close()
		return nil, err
	}
	r.stop = context.AfterFunc(ctx, func() { r.conn.Close() })
	r.in = bufio.NewReaderSize(r.conn, 256<<10)
	if err := r.greet(); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *reader) close() {
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	_ = r.b.js.DeleteConsumer(ctx, r.b.stream, r.consumer) // or it ends by itself
	if r.conn != nil {
		r.stop()
		r.conn.Close()
	}
}

func (r *reader) greet() error {
	if err := r.conn.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return err
	}
	if _, err := r.in.ReadSlice('\n'); err != nil { // INFO
		return err
	}
	_, err := fmt.Fprintf(r.conn, "CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true}\r\nSUB %s 1\r\n", r.inbox)
	return err
}

// ask asks for the next messages while those asked for before are still on their way.
func (r *reader) ask() error {
	if err := r.conn.SetDeadline(time.Now().Add(stallTimeout)); err != nil {
		return err
	}
	body := fmt.Sprintf(`{"batch":%d,"max_bytes":%d,"no_wait":true}`, readMessages, readBytes)
	r.asked += readMessages
	_, err := fmt.Fprintf(r.conn, "PUB $JS.API.CONSUMER.MSG.NEXT.%s.%s %s %d\r\n%s\r\n", r.b.stream, r.consumer, r.inbox, len(body), body)
	return err
}

var errProtocol = errors.New("unexpected answer of the server")

// next gives the next message, or io.EOF.
func (r *reader) next() (message, error) {
	for {
		if r.asked <= readMessages {
			if err := r.ask(); err != nil {
				return message{}, err
			}
		}
		line, err := r.in.ReadSlice('\n')
		if err != nil {
			return message{}, err
		}
		verb, rest, _ := strings.Cut(strings.TrimRight(string(line), "\r\n"), " ")
		switch verb {
		case "PING":
			if _, err := io.WriteString(r.conn, "PONG\r\n"); err != nil {
				return message{}, err
			}
		case "MSG", "HMSG":
			m, err := r.read(verb == "HMSG", strings.Fields(rest))
			if err == nil || err != errAgain {
				return m, err
			}
		case "-ERR":
			return message{}, fmt.Errorf("%w: %s", errProtocol, rest)
		}
	}
}

// errAgain means that what was read is no message, but that the reading goes on.
var errAgain = errors.New("a request was answered in full")

// read reads what follows a line "MSG subject sid [reply] size" or "HMSG subject sid [reply] header size".
func (r *reader) read(hasHeader bool, args []string) (m message, err error) {
	sizes := 1
	if hasHeader {
		sizes = 2
	}
	if len(args) < 2+sizes {
		return m, errProtocol
	}
	headerSize, total := 0, 0
	total, err = strconv.Atoi(args[len(args)-1])
	if err == nil && hasHeader {
		headerSize, err = strconv.Atoi(args[len(args)-2])
	}
	if err != nil || headerSize > total {
		return m, errProtocol
	}
	raw := make([]byte, total+2)
	if _, err := io.ReadFull(r.in, raw); err != nil {
		return m, err
	}
	header := raw[:headerSize]
	if len(args) == 2+sizes { // without a reply: the end of a request
		return m, r.status(header)
	}
	r.asked--
	// The reply is $JS.ACK.stream.consumer.delivered.sequence.of-consumer.time.pending.
	tokens := strings.Split(args[2], ".")
	if len(tokens) != 9 {
		return m, errProtocol
	}
	m.Revision, err = strconv.ParseUint(tokens[5], 10, 64)
	key, ours := strings.CutPrefix(args[0], r.b.prefix)
	if err != nil || !ours {
		return m, errProtocol
	}
	m.Key = key
	m.previous = field(header, headerPrevious)
	if field(header, headerOperation) != "" {
		m.Deleted = true
	} else {
		m.Value = raw[headerSize:total:total]
	}
	return m, nil
}

// status reads how a request ended, "NATS/1.0 CODE TEXT": with no message left, or with as many messages
// or bytes as were asked for.
func (r *reader) status(header []byte) error {
	line, _, _ := bytes.Cut(header, []byte("\r\n"))
	_, status, _ := strings.Cut(string(line), " ")
	code, _, _ := strings.Cut(status, " ")
	switch code {
	case "404":
		return io.EOF
	case "408", "409": // time or size; 409 is also a consumer that is gone, and then the next request says so
		if left, err := strconv.Atoi(field(header, "Nats-Pending-Messages")); err == nil {
			r.asked -= left
			return errAgain
		}
	}
	return fmt.Errorf("%w: %s", errProtocol, status)
}

// field gives the value of a header field, or "". All are ours or NATS's, written in one way.
func field(header []byte, name string) string {
	_, rest, ok := bytes.Cut(header, []byte("\r\n"+name+": "))
	if !ok {
		if _, rest, ok = bytes.Cut(header, []byte("\r\n"+name+":")); !ok {
			return ""
		}
	}
	value, _, _ := bytes.Cut(rest, []byte("\r\n"))
	return string(bytes.TrimSpace(value))
}
