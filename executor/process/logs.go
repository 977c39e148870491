package process

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"lambent"
	"lambent/executor"
	"lambent/internal/redact"
)

const (
	maxLine   = 64 << 10 // longer lines are split
	tailLines = 20
	maxEnded  = 64
)

// logger turns what an instance writes into log lines that carry the invocation they belong to.
//
// Where one request is served at a time, both pipes are emptied at the border of every invocation, in the
// goroutine that crosses it: what was written before counts as before. Where there are several, a line names
// all that it may belong to: those in flight, and those that have ended since its pipe was last seen empty.
// Lock order: pipe.mu, then logger.mu.
type logger struct {
	sink  func(lambent.LogLine)
	line  lambent.LogLine // what all lines share
	exact bool            // one request at a time, so a line belongs to the one in flight
	fatal string          // see program.heapFull
	hide  *redact.Redactor
	pipes []*pipe

	mu       sync.Mutex // guards what is below
	inFlight []string
	tail     []string
	full     bool // fatal was said
}

func newLogger(spec executor.Spec) *logger {
	r := spec.Revision
	return &logger{
		sink:  spec.Log,
		line:  lambent.LogLine{Namespace: r.Namespace, Function: r.Function, Revision: r.ID, Instance: spec.ID},
		exact: r.Settings.Concurrency == 1,
		hide:  redact.New(slices.Collect(maps.Values(spec.Secrets))),
	}
}

// pipe makes the pipe of a stream and gives its write end.
func (l *logger) pipe(stream string) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	if err := l.add(stream, r); err != nil {
		return nil, errors.Join(err, r.Close(), w.Close())
	}
	return w, nil
}

// add takes over the read end of a stream's pipe.
func (l *logger) add(stream string, r *os.File) error {
	raw, err := r.SyscallConn()
	if err != nil {
		return err
	}
	p := &pipe{stream: stream, file: r, raw: raw, log: l}
	if err := raw.Control(func(fd uintptr) { p.fd = int(fd) }); err != nil {
		return err
	}
	l.pipes = append(l.pipes, p)
	return nil
}

// start reads the pipes to their ends.
func (l *logger) start(readers *sync.WaitGroup) {
	for _, p := range l.pipes {
		readers.Go(p.read)
	}
}

// stop takes what is in the pipes now and leaves what comes later to another reader.
func (l *logger) stop() {
	for _, p := range l.pipes {
		p.drain()
		p.mu.Lock()
		if !p.closed {
			p.flush()
		}
		p.closed = true
		p.file.Close()
		p.mu.Unlock()
	}
}

func (l *logger) close() {
	for _, p := range l.pipes {
		p.mu.Lock()
		p.closed = true
		p.file.Close()
		p.mu.Unlock()
	}
}

// expire ends the reading of the pipes at t, whether or not they have come to their ends.
func (l *logger) expire(t time.Time) {
	for _, p := range l.pipes {
		_ = p.file.SetReadDeadline(t) // fails only when it has been closed
	}
}

func (l *logger) begin(inv *lambent.Invocation) {
	if l.exact {
		l.drain()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inFlight = append(l.inFlight, inv.ID)
}

func (l *logger) end(inv *lambent.Invocation) { l.ended(inv.ID) }

func (l *logger) ended(id string) {
	if l.exact {
		l.drain()
	}
	if l.leave(id) {
		l.drain()
	}
}

// leave takes an invocation out of those in flight. It tells whether a pipe has to be emptied, because too
// many have ended since it was.
func (l *logger) leave(id string) (full bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	last := len(l.inFlight) - 1
	at := slices.Index(l.inFlight, id)
	if at < 0 {
		return false // another process has spoken of it that knows more
	}
	l.inFlight[at] = l.inFlight[last]
	l.inFlight = l.inFlight[:last]
	for _, p := range l.pipes {
		if !l.exact {
			p.ended = append(p.ended, id)
			full = full || len(p.ended) >= maxEnded
		}
	}
	return full
}

// endedBy counts those that have ended before a look into p, and forget drops them when the look has shown
// that nothing of theirs is left in it. The beginning of a line may still be theirs, within reason. Both are
// for the holder of p.mu.
func (l *logger) endedBy(p *pipe) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(p.ended)
}

func (l *logger) forget(p *pipe, count int) {
	if count == 0 || len(p.rest) > 0 && count < maxEnded {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	p.ended = slices.Delete(p.ended, 0, count)
}

func (l *logger) drain() {
	for _, p := range l.pipes {
		p.drain()
	}
}

// platform says something of the instance.
func (l *logger) platform(text string) { l.emit("lambent", text, nil) }

// emit says a line, which came out of p unless it is the platform's.
func (l *logger) emit(stream, text string, p *pipe) {
	text = strings.ToValidUTF8(l.hide.String(text), "\uFFFD")
	line := l.line
	line.Time, line.Stream, line.Text = time.Now().UTC(), stream, text
	l.mu.Lock()
	if l.exact && len(l.inFlight) == 1 {
		line.Invocation = l.inFlight[0]
	} else {
		line.InFlight = slices.Clone(l.inFlight)
		if p != nil {
			line.InFlight = append(line.InFlight, p.ended...)
		}
	}
	if len(l.tail) == tailLines {
		l.tail = l.tail[1:]
	}
	l.tail = append(l.tail, text)
	l.full = l.full || l.fatal != "" && strings.Contains(text, l.fatal)
	l.mu.Unlock()
	l.sink(line)
}

// heapFull tells whether the program has said, in what it wrote until now, that its heap is full.
func (l *logger) heapFull() bool {
	l.drain()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.full
}

func (l *logger) lastLines() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.tail, "\n")
}

// pipe is one of an instance's output streams.
type pipe struct {
	stream string
	file   *os.File
	raw    syscall.RawConn // waits; its Control is too slow for every request
	fd     int
	log    *logger

	mu     sync.Mutex // held while bytes are on their way to the sink, so that lines keep their order
	closed bool       // fd may be another file by now
	rest   []byte     // of a line without its end

	ended []string // the invocations that have ended since the pipe was last seen empty; guarded by log.mu
}

// buffers are shared: most pipes are silent most of the time.
var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// read takes what comes until the pipe's end.
func (p *pipe) read() {
	// The function runs whenever the pipe is readable, until it returns true. An error means that the
	// pipe was closed under it, after the end of all that could write.
	_ = p.raw.Read(func(uintptr) bool {
		for {
			if n, err := p.next(); n <= 0 {
				return !errors.Is(err, unix.EAGAIN)
			}
		}
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flush()
}

// next takes what a read gives.
func (p *pipe) next() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, nil // as at its end
	}
	ended := p.log.endedBy(p)
	n, err := p.take(maxLine)
	if errors.Is(err, unix.EAGAIN) {
		p.log.forget(p, ended)
	}
	return n, err
}

// drain takes what is in the pipe now. When one request is served at a time, the beginning of a line
// counts as a line.
func (p *pipe) drain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	ended := p.log.endedBy(p)
	waiting, err := unix.IoctlGetInt(p.fd, unix.TIOCINQ) // so that an eager writer cannot hold us
	for n := 0; err == nil && waiting > 0; waiting -= n {
		if n, err = p.take(waiting); n <= 0 {
			break
		}
	}
	if p.log.exact {
		p.flush()
	}
	p.log.forget(p, ended)
}

// take reads once, at most limit bytes, and emits the lines that are complete. The caller holds mu.
func (p *pipe) take(limit int) (int, error) {
	buffer := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buffer)
	n, err := unix.Read(p.fd, buffer[:min(limit, len(buffer))])
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Read(p.fd, buffer[:min(limit, len(buffer))])
	}
	if n > 0 {
		p.split(buffer[:n])
	}
	return n, err
}

func (p *pipe) split(b []byte) {
	for len(b) > 0 {
		end := bytes.IndexByte(b, '\n')
		part := b
		if end >= 0 {
			part = b[:end]
		}
		for len(p.rest)+len(part) > maxLine {
			room := maxLine - len(p.rest)
			p.rest = append(p.rest, part[:room]...)
			part = part[room:]
			p.cut()
		}
		p.rest = append(p.rest, part...)
		if end < 0 {
			return
		}
		p.say(p.rest)
		p.rest = p.rest[:0]
		b = b[end+1:]
	}
}

// cut emits a full rest, but for the bytes of a character that it holds the beginning of.
func (p *pipe) cut() {
	at := len(p.rest)
	for back := 1; back < utf8.UTFMax; back++ {
		if c := p.rest[len(p.rest)-back]; utf8.RuneStart(c) {
			if !utf8.FullRune(p.rest[len(p.rest)-back:]) {
				at -= back
			}
			break
		}
	}
	p.say(p.rest[:at])
	p.rest = append(p.rest[:0], p.rest[at:]...)
}

func (p *pipe) flush() {
	if len(p.rest) > 0 {
		p.say(p.rest)
		p.rest = p.rest[:0]
	}
}

func (p *pipe) say(line []byte) {
	p.log.emit(p.stream, string(line), p)
}
