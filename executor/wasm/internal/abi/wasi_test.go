package abi

import (
	"errors"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/sys"

	"lambent"
)

const pageSize = 1 << 16

// memoryOf gives a memory of one page.
func memoryOf(t testing.TB) api.Memory {
	t.Helper()
	rt, err := host()
	if err != nil {
		t.Fatal(err)
	}
	compiled, err := rt.CompileModule(t.Context(), loop(Module, "time"))
	if err != nil {
		t.Fatal(err)
	}
	instance, err := rt.InstantiateModule(t.Context(), compiled, wazero.NewModuleConfig().WithName(""))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = instance.Close(t.Context()) })
	return instance.Memory()
}

// invoke calls a host function as a guest would, and gives its result and what it has ended the call with.
func invoke(c *Call, m api.Memory, module, name string, args ...uint64) (result uint64, ended error) {
	i := slices.IndexFunc(modules[module], func(f function) bool { return f.name == name })
	return invokeFunction(c, m, modules[module][i], args...)
}

func invokeFunction(c *Call, m api.Memory, f function, args ...uint64) (result uint64, ended error) {
	stack := make([]uint64, max(1, len(f.params)))
	copy(stack, args)
	defer func() {
		switch p := recover().(type) {
		case nil:
		case *ending:
			ended = p.err
		case *sys.ExitError:
			ended = p
		default:
			panic(p)
		}
	}()
	f.call(c, m, stack)
	if len(f.results) == 0 {
		return 0, nil
	}
	return stack[0], nil
}

func errnoFrom(t *testing.T, c *Call, m api.Memory, name string, args ...uint64) errno {
	t.Helper()
	got, ended := invoke(c, m, wasiModule, name, args...)
	if ended != nil {
		t.Fatalf("%s: %v", name, ended)
	}
	return errno(got)
}

const outside = pageSize - 2 // of the memory, for what is longer than 2 bytes

// TestErrno is what functions of WASI give for wrong descriptors, pointers and lengths.
func TestErrno(t *testing.T) {
	m := memoryOf(t)
	for _, c := range []struct {
		name string
		args []uint64
		want errno
	}{
		{"fd_read", []uint64{0, 64, 1, 32}, success},
		{"fd_read", []uint64{1, 64, 1, 32}, badf},
		{"fd_read", []uint64{3, 64, 1, 32}, badf},
		{"fd_read", []uint64{math.MaxUint32, 64, 1, 32}, badf},
		{"fd_read", []uint64{0, outside, 1, 32}, fault},
		{"fd_read", []uint64{0, 64, 1, outside}, fault},
		{"fd_read", []uint64{0, 64, math.MaxUint32, 32}, inval},
		{"fd_read", []uint64{0, 64, 1 << 29, 32}, inval}, // its size is 0 in 32 bits
		{"fd_read", []uint64{0, 128, 1, 32}, fault},
		{"fd_read", []uint64{0, 64, 0, 32}, success},
		{"fd_write", []uint64{2, 64, 1, 32}, success},
		{"fd_write", []uint64{0, 64, 1, 32}, badf},
		{"fd_write", []uint64{7, 64, 1, 32}, badf},
		{"fd_write", []uint64{1, 128, 1, 32}, fault},
		{"fd_write", []uint64{1, 64, 1, outside}, fault},
		{"fd_write", []uint64{1, 64, maxVectors + 1, 32}, inval},
		{"fd_seek", []uint64{0, 0, 0, 32}, spipe},
		{"fd_seek", []uint64{4, 0, 0, 32}, badf},
		{"fd_tell", []uint64{1, 32}, spipe},
		{"fd_pread", []uint64{0, 64, 1, 0, 32}, spipe},
		{"fd_readdir", []uint64{1, 64, 1, 0, 32}, notdir},
		{"fd_sync", []uint64{1}, success},
		{"fd_sync", []uint64{9}, badf},
		{"fd_renumber", []uint64{2, 1}, notsup},
		{"fd_fdstat_get", []uint64{1, 32}, success},
		{"fd_fdstat_get", []uint64{3, 32}, badf},
		{"fd_fdstat_get", []uint64{1, outside}, fault},
		{"fd_fdstat_set_flags", []uint64{1, 1}, success},
		{"fd_fdstat_set_flags", []uint64{1, flagNonblock}, notsup},
		{"fd_filestat_get", []uint64{2, 32}, success},
		{"fd_filestat_get", []uint64{2, outside}, fault},
		{"fd_prestat_get", []uint64{3, 32}, badf},
		{"path_open", []uint64{3, 0, 0, 1, 0, 0, 0, 0, 32}, notcapable},
		{"path_unlink_file", []uint64{3, 0, 1}, notcapable},
		{"sock_accept", []uint64{1, 0, 32}, notsock},
		{"sock_send", []uint64{5, 64, 1, 0, 32}, badf},
		{"proc_raise", []uint64{9}, nosys},
		{"sched_yield", nil, success},
		{"random_get", []uint64{32, 8}, success},
		{"random_get", []uint64{32, pageSize}, fault},
		{"clock_time_get", []uint64{realtime, 1, 32}, success},
		{"clock_time_get", []uint64{2, 1, 32}, notsup}, // the processor time of others is nobody's business
		{"clock_time_get", []uint64{monotonic, 1, outside}, fault},
		{"clock_res_get", []uint64{monotonic, 32}, success},
		{"clock_res_get", []uint64{4, 32}, notsup},
		{"args_sizes_get", []uint64{32, 36}, success},
		{"args_sizes_get", []uint64{32, outside}, fault},
		{"args_get", []uint64{32, 36}, success},
		{"args_get", []uint64{32, outside}, fault},
		{"environ_sizes_get", []uint64{32, 36}, success},
		{"environ_get", []uint64{32, outside}, fault},
		{"environ_get", []uint64{outside, 32}, fault},
		{"poll_oneoff", []uint64{256, 512, 0, 32}, inval},
		{"poll_oneoff", []uint64{256, 512, math.MaxUint32, 32}, inval},
		{"poll_oneoff", []uint64{outside, 512, 1, 32}, fault},
		{"poll_oneoff", []uint64{256, outside, 1, 32}, fault},
		{"poll_oneoff", []uint64{256, 512, 1, outside}, fault},
	} {
		m.Write(0, make([]byte, pageSize))
		m.WriteUint64Le(64, 10<<32|200)            // an iovec of ten bytes at 200
		m.WriteUint64Le(128, 10<<32|(outside))     // one outside
		m.WriteUint64Le(256+24, uint64(time.Hour)) // a subscription that would take long
		call := &Call{Kind: Command, Method: "GET", Target: "/", Env: []string{"A=b"}}
		if got := errnoFrom(t, call, m, c.name, c.args...); got != c.want {
			t.Errorf("%s%x: %d, want %d", c.name, c.args, got, c.want)
		}
	}
}

// TestClose shows that a closed stream is closed for that call alone.
func TestClose(t *testing.T) {
	m := memoryOf(t)
	call := &Call{Kind: Command, Method: "GET", Target: "/"}
	for _, want := range []errno{success, badf} {
		if got := errnoFrom(t, call, m, "fd_close", 1); got != want {
			t.Errorf("%d, want %d", got, want)
		}
	}
	for _, name := range []string{"fd_write", "fd_sync", "fd_fdstat_get", "fd_seek"} {
		if got := errnoFrom(t, call, m, name, 1, 64, 1, 32); got != badf {
			t.Errorf("%s on a closed stream: %d", name, got)
		}
	}
	if got := errnoFrom(t, &Call{Kind: Command, Method: "GET"}, m, "fd_fdstat_get", 1, 64); got != success {
		t.Errorf("the next call: %d", got)
	}
}

// subscribe writes a subscription of a clock, or of a descriptor.
func subscribe(m api.Memory, at uint32, id uint64, tag byte, of uint32, timeout uint64, flags uint16) {
	m.Write(at, make([]byte, subscriptionSize))
	m.WriteUint64Le(at, id)
	m.WriteByte(at+8, tag)
	m.WriteUint32Le(at+16, of)
	m.WriteUint64Le(at+24, timeout)
	m.WriteUint16Le(at+40, flags)
}

// TestPoll is which events come, and after how long.
func TestPoll(t *testing.T) {
	m := memoryOf(t)
	synctest.Test(t, func(t *testing.T) {
		type sub struct {
			tag     byte
			of      uint32
			timeout time.Duration
			flags   uint16
		}
		type event struct {
			id    uint64
			errno errno
		}
		for name, c := range map[string]struct {
			subs []sub
			want []event
			took time.Duration
		}{
			"a timeout":          {[]sub{{0, monotonic, time.Second, 0}}, []event{{1, success}}, time.Second},
			"the earlier of two": {[]sub{{0, realtime, time.Hour, 0}, {0, monotonic, time.Second, 0}}, []event{{2, success}}, time.Second},
			"two at a time":      {[]sub{{0, realtime, time.Second, 0}, {0, monotonic, time.Second, 0}}, []event{{1, success}, {2, success}}, time.Second},
			"a point in time":    {[]sub{{0, realtime, time.Minute, absolute}}, []event{{1, success}}, time.Minute},
			"a stream":           {[]sub{{0, monotonic, time.Hour, 0}, {1, 0, 0, 0}, {2, 1, 0, 0}}, []event{{2, success}, {3, success}}, 0},
			"no such stream":     {[]sub{{1, 7, 0, 0}}, []event{{1, badf}}, 0},
			"no such clock":      {[]sub{{0, 3, time.Hour, 0}}, []event{{1, notsup}}, 0},
			"no such kind":       {[]sub{{9, 0, 0, 0}}, []event{{1, inval}}, 0},
			"at once":            {[]sub{{0, monotonic, 0, 0}}, []event{{1, success}}, 0},
		} {
			begun := time.Now()
			for i, s := range c.subs {
				timeout := uint64(s.timeout)
				if s.flags == absolute {
					timeout += uint64(begun.UnixNano())
				}
				subscribe(m, uint32(1024+i*subscriptionSize), uint64(i+1), s.tag, s.of, timeout, s.flags)
			}
			call := &Call{Kind: Command, Method: "GET"}
			With(t.Context(), call)
			if got := errnoFrom(t, call, m, "poll_oneoff", 1024, 2048, uint64(len(c.subs)), 32); got != success {
				t.Fatalf("%s: %d", name, got)
			}
			n, _ := m.ReadUint32Le(32)
			var got []event
			for i := range n {
				id, _ := m.ReadUint64Le(2048 + i*eventSize)
				e, _ := m.ReadUint16Le(2048 + i*eventSize + 8)
				got = append(got, event{id, errno(e)})
			}
			if !slices.Equal(got, c.want) || time.Since(begun) != c.took {
				t.Errorf("%s: %v after %v, want %v after %v", name, got, time.Since(begun), c.want, c.took)
			}
		}
	})
}

// TestPatience is when an answer goes out that is not whole.
func TestPatience(t *testing.T) {
	m := memoryOf(t)
	synctest.Test(t, func(t *testing.T) {
		r := &result{}
		call := &Call{Kind: Reactor, Method: "GET"}
		r.on(call)
		With(t.Context(), call)
		write := func(n uint64) { // of x
			if _, err := invoke(call, m, Module, "write", 0, n); err != nil {
				t.Fatal(err)
			}
		}
		sleep := func(d time.Duration) {
			subscribe(m, 1024, 1, 0, monotonic, uint64(d), 0)
			errnoFrom(t, call, m, "poll_oneoff", 1024, 2048, 1, 32)
		}
		m.Write(0, []byte("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"))
		for i, step := range []struct {
			do   func()
			sent int // in all
		}{
			{func() { write(8) }, 0},
			{func() { call.Tick() }, 0},
			{func() { sleep(patience / 2) }, 0},
			{func() { write(8) }, 0},
			{func() { sleep(patience / 2) }, 16}, // it would get too old
			{func() { write(8) }, 16},
			{func() { time.Sleep(patience); call.Tick() }, 24},
			{func() { call.Tick() }, 24},
			{func() { write(8); sleep(time.Hour) }, 32},
			{func() { write(8); call.read(nil) }, 32},
			{func() { call.Body = strings.NewReader("x"); call.read(make([]byte, 1)) }, 40}, // it may wait
			{func() { write(gather - 8); write(8) }, 40},
			{func() { write(1) }, 40 + gather},
			{func() { write(32 << 10) }, 41 + gather + 32<<10},
			{func() { write(1); _ = call.Finish(nil) }, 42 + gather + 32<<10},
		} {
			if step.do(); r.body.Len() != step.sent {
				t.Fatalf("step %d: %d bytes were sent, want %d", i, r.body.Len(), step.sent)
			}
		}
		if r.length != -1 || r.err != nil {
			t.Errorf("length %d, %v", r.length, r.err)
		}
	})
}

// TestLog is how pieces become lines.
func TestLog(t *testing.T) {
	long := strings.Repeat("y", maxLine)
	for _, c := range []struct {
		pieces []string
		want   []string
	}{
		{[]string{"one\n"}, []string{"one\n"}},
		{[]string{"o", "n", "e", "\n"}, []string{"one\n"}},
		{[]string{"one\ntwo\nth", "ree"}, []string{"one\ntwo\n", "three\n"}},
		{[]string{"a", "b\nc", "d\n"}, []string{"ab\n", "cd\n"}},
		{[]string{"a" + long}, []string{"a" + long[1:] + "\n", "y\n"}},
		{[]string{"a", long}, []string{"a" + long[1:] + "\n", "y\n"}},
		{[]string{long, "\n"}, []string{long + "\n", "\n"}},
		{[]string{strings.Repeat(long, piece/maxLine+1)}, slices.Repeat([]string{long + "\n"}, piece/maxLine+1)},
	} {
		var got []string
		call := &Call{Kind: Command, Log: func(stream string, p []byte) {
			if stream != "stderr" {
				t.Errorf("stream %s", stream)
			}
			got = append(got, string(p))
		}}
		for _, p := range c.pieces {
			call.log(2, []byte(p))
		}
		if _ = call.Finish(errors.New("other")); !slices.Equal(got, c.want) {
			t.Errorf("%.20q: %.100q, want %.100q", c.pieces, got, c.want)
		}
	}
	call := &Call{Kind: Command}
	for i := range 100_000 {
		call.log(2, []byte(strings.Repeat("z", i%100)+"\n"))
	}
	if cap(call.tail) > 16*maxTail || strings.Count(call.lastLines(), "\n") != tailLines-1 {
		t.Errorf("the tail is of %d bytes, and %d lines", cap(call.tail), strings.Count(call.lastLines(), "\n")+1)
	}
}

// TestAnswer is what the functions of reactors take for an answer.
func TestAnswer(t *testing.T) {
	m := memoryOf(t)
	for _, c := range []struct {
		name   string
		method string
		status uint64
		fields string
		body   []int // bytes of each write
		want   int64 // the length that is announced
		code   lambent.Code
		wrong  string
	}{
		{name: "whole", status: 200, fields: "a\x00b\x00", body: []int{5}, want: 5},
		{name: "empty", status: 204, want: 0},
		{name: "none to a HEAD", method: "HEAD", status: 200, fields: "content-length\x0077\x00", want: 77},
		{name: "some to a HEAD", method: "HEAD", status: 200, body: []int{5, 6}, want: 11},
		{name: "not modified", status: 304, want: -1},
		{name: "length", status: 200, fields: "Content-Length\x005\x00", body: []int{2, 3}, want: 5},
		{name: "length, twice the same", status: 200, fields: "Content-Length\x005\x00content-length\x005\x00", body: []int{5}, want: 5},
		{name: "length of what is too long to hold back", status: 200, fields: "Content-Length\x0040000\x00", body: []int{20000, 20000}, want: 40000},
		{name: "an empty value", status: 200, fields: "a\x00\x00", want: 0},
		{name: "too little", status: 200, fields: "Content-Length\x005\x00", body: []int{2}, code: lambent.CodeBadResponse, wrong: "ended after 2 of the 5 bytes"},
		{name: "too much", status: 200, fields: "Content-Length\x005\x00", body: []int{2, 4}, code: lambent.CodeBadResponse, wrong: "longer than its Content-Length of 5"},
		{name: "two lengths", status: 200, fields: "Content-Length\x005\x00Content-Length\x006\x00", code: lambent.CodeBadResponse, wrong: "is not one number"},
		{name: "no number", status: 200, fields: "Content-Length\x00+5\x00", code: lambent.CodeBadResponse, wrong: "is not one number"},
		{name: "below zero", status: 200, fields: "Content-Length\x00-5\x00", code: lambent.CodeBadResponse, wrong: "is not one number"},
		{name: "status 99", status: 99, code: lambent.CodeBadResponse, wrong: "99 is no status"},
		{name: "status 101", status: 101, code: lambent.CodeBadResponse, wrong: "101 is no status"},
		{name: "status -1", status: math.MaxUint32, code: lambent.CodeBadResponse, wrong: "-1 is no status"},
		{name: "of the connection", status: 200, fields: "transfer-encoding\x00chunked\x00", code: lambent.CodeBadResponse, wrong: "Transfer-Encoding is of the connection"},
		{name: "of the platform", status: 200, fields: "lambent-error\x00x\x00", code: lambent.CodeBadResponse, wrong: "not the function's to say"},
		{name: "no name", status: 200, fields: "\x00x\x00", code: lambent.CodeBadResponse, wrong: "no name of a field"},
		{name: "a line end in a value", status: 200, fields: "a\x00b\r\nc: d\x00", code: lambent.CodeBadResponse, wrong: "control character"},
		{name: "no value", status: 200, fields: "a\x00", code: lambent.CodeBadResponse, wrong: "end in a NUL byte"},
		{name: "no end", status: 200, fields: "a\x00b", code: lambent.CodeBadResponse, wrong: "end in a NUL byte"},
	} {
		r := &result{}
		call := &Call{Kind: Reactor, Method: c.method}
		if call.Method == "" {
			call.Method = "GET"
		}
		r.on(call)
		m.WriteString(0, c.fields)
		_, ended := invoke(call, m, Module, "respond", c.status, 0, uint64(len(c.fields)))
		for _, n := range c.body {
			if ended == nil {
				_, ended = invoke(call, m, Module, "write", 0, uint64(n))
			}
		}
		if ended != nil {
			ended = &ending{ended}
		}
		err := call.Finish(ended)
		if c.code != "" {
			if !lambent.HasCode(err, c.code) || !strings.Contains(err.Error(), c.wrong) {
				t.Errorf("%s: %v, want %s", c.name, err, c.wrong)
			}
		} else if err != nil || r.length != c.want || r.status != int(c.status) {
			t.Errorf("%s: status %d, length %d, %v", c.name, r.status, r.length, err)
		}
	}
	m.Write(0, []byte(strings.Repeat("a", maxHead/2)))
	call := &Call{Kind: Reactor, Method: "GET"}
	if _, err := invoke(call, m, Module, "respond", 200, 0, math.MaxUint32); !lambent.HasCode(err, lambent.CodeHandlerError) {
		t.Errorf("a header beyond the memory: %v", err)
	}
}

// TestInitialisation is what a module may do before there is a request.
func TestInitialisation(t *testing.T) {
	m := memoryOf(t)
	for name, want := range map[string]string{"request": "no request", "read": "no request", "respond": "no request", "write": "no request", "log": "", "env": "", "random": "", "time": ""} {
		got, err := invoke(&Call{Kind: Reactor, Env: []string{"A=b"}}, m, Module, name, 0, 0, 0, 0)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) || name == "env" && int32(got) != -1 {
			t.Errorf("%s: %d, %v", name, got, err)
		}
	}
	call := &Call{Kind: Reactor, Env: []string{"A=b"}}
	errnoFrom(t, call, m, "environ_sizes_get", 32, 36)
	if n, _ := m.ReadUint32Le(32); n != 0 {
		t.Errorf("it sees %d variables", n)
	}
	if err := call.Finish(nil); err != nil {
		t.Error(err)
	}
}

// TestHostage is a command that begins a header and then writes all that it can: what is kept of it is bounded.
func TestHostage(t *testing.T) {
	call := &Call{Kind: Command, Method: "GET"}
	rest := make([]byte, 64<<20)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var ended error
	func() {
		defer func() { ended = recover().(*ending).err }()
		call.stdout([]byte("Status: 200"))
		call.stdout(rest)
	}()
	runtime.ReadMemStats(&after)
	if !lambent.HasCode(ended, lambent.CodeBadResponse) {
		t.Error(ended)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("%d bytes", n)
	}
}
