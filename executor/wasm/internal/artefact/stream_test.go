package artefact

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"lambent"
	"lambent/executor/wasm/internal/module"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func sample() *Artefact {
	a := &Artefact{
		Meta:   Meta{Kind: "command", Native: "x/y", Image: true, Pages: 40, Max: 100, Epoch: "e"},
		Module: []byte("module"), Native: bytes.Repeat([]byte("native"), 100_000), Image: make([]byte, 40*module.PageSize),
	}
	for _, at := range []int{0, 5000, 3 * module.PageSize, 4*module.PageSize + 17, len(a.Image) - 1} {
		a.Image[at] = 1 + byte(rand.IntN(255))
	}
	return a
}

func TestStream(t *testing.T) {
	a := sample()
	var stream bytes.Buffer
	check(t, a.Send(&stream))
	if n := stream.Len(); n > len(a.Native)+6*module.PageSize {
		t.Errorf("the stream has %d bytes: it carries zeros", n)
	}
	dir := t.TempDir()
	check(t, Receive(&stream, dir, nil))
	files, err := Open(dir)
	check(t, err)
	defer files.Close()
	if !reflect.DeepEqual(files.Meta, a.Meta) {
		t.Errorf("got %+v, want %+v", files.Meta, a.Meta)
	}
	for _, f := range []struct {
		file *os.File
		want []byte
	}{{files.Module, a.Module}, {files.Native, a.Native}, {files.Image, a.Image}} {
		got, err := os.ReadFile(f.file.Name())
		check(t, err)
		if !bytes.Equal(got, f.want) {
			t.Errorf("%s differs", f.file.Name())
		}
	}
	info, err := files.Image.Stat()
	check(t, err)
	if used := info.Sys().(*syscall.Stat_t).Blocks * 512; used > 6*block {
		t.Errorf("the image of five written pages takes %d bytes of the disk", used)
	}
}

func TestOpenIncomplete(t *testing.T) {
	dir := t.TempDir()
	var stream bytes.Buffer
	check(t, sample().Send(&stream))
	check(t, Receive(&stream, dir, nil))
	check(t, os.Remove(filepath.Join(dir, NativeFile)))
	if _, err := Open(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// hostile is what a compiler must not get the host to do.
func hostile(t testing.TB) map[string][]byte {
	of := func(h head, more ...byte) []byte {
		text, err := json.Marshal(h)
		check(t, err)
		return append(append(binary.LittleEndian.AppendUint32(nil, uint32(len(text))), text...), more...)
	}
	image := &Meta{Image: true, Pages: 2}
	return map[string][]byte{
		"nothing":            {},
		"half a length":      {1, 0},
		"a long head":        {0xff, 0xff, 0xff, 0x7f},
		"half a head":        {9, 0, 0, 0, '{'},
		"no JSON":            {2, 0, 0, 0, 'x', 'x'},
		"neither nor":        of(head{}),
		"no module":          of(head{Meta: &Meta{}, Module: 5}, 'a'),
		"a large module":     of(head{Meta: &Meta{}, Module: module.MaxSize + 1}),
		"a negative size":    of(head{Meta: &Meta{}, Native: -1}),
		"large native code":  of(head{Meta: &Meta{}, Native: maxNative + 1}),
		"many pages":         of(head{Meta: &Meta{Image: true, Pages: maxPages + 1}}),
		"less than nothing":  of(head{Meta: &Meta{Overhead: -1}}),
		"parts of no image":  of(head{Meta: &Meta{Pages: 2}, Image: [][2]int64{{0, 1}}}, 'a'),
		"a part outside":     of(head{Meta: image, Image: [][2]int64{{2 * module.PageSize, 1}}}, 'a'),
		"a part that wraps":  of(head{Meta: image, Image: [][2]int64{{1, 1<<63 - 1}}}),
		"a negative part":    of(head{Meta: image, Image: [][2]int64{{-5, 5}}}, 'a', 'a', 'a', 'a', 'a'),
		"an empty part":      of(head{Meta: image, Image: [][2]int64{{0, 0}}}),
		"parts that overlap": of(head{Meta: image, Image: [][2]int64{{0, 2}, {1, 2}}}, 'a', 'a', 'a', 'a'),
		"more at the end":    of(head{Meta: &Meta{}}, 'a'),
		"a foreign error":    of(head{Error: lambent.Errorf(lambent.CodeUnauthorized, "pay")}),
	}
}

func TestReceiveHostile(t *testing.T) {
	for name, stream := range hostile(t) {
		t.Run(name, func(t *testing.T) {
			err := Receive(bytes.NewReader(stream), t.TempDir(), nil)
			if own := (*lambent.Error)(nil); err == nil || errors.As(err, &own) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestReceiveRefusal(t *testing.T) {
	long := lambent.Errorf(lambent.CodeStartFailed, "%s", strings.Repeat("x", 1<<20)).WithHint("h")
	long.Trace = "t"
	var stream bytes.Buffer
	check(t, SendError(&stream, long))
	var own *lambent.Error
	if err := Receive(&stream, t.TempDir(), nil); !errors.As(err, &own) || own.Code != long.Code || len(own.Message) > maxText ||
		own.Hint != "h" || own.Trace != "t" || own.Fault != lambent.FaultFunction {
		t.Errorf("got %.200v", err)
	}
}

// FuzzReceive: whatever a compiler says, the host writes three files of the sizes that it was told, or fails.
func FuzzReceive(f *testing.F) {
	for _, stream := range hostile(f) {
		f.Add(stream)
	}
	for _, pages := range []uint32{0, 3} { // of zeros, to be small
		var stream bytes.Buffer
		a := Artefact{Meta: Meta{Kind: "command", Image: true, Pages: pages}, Module: []byte("m"), Native: []byte("n"), Image: make([]byte, int(pages)*module.PageSize)}
		check(f, a.Send(&stream))
		f.Add(stream.Bytes())
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		dir := t.TempDir()
		if Receive(bytes.NewReader(stream), dir, nil) != nil {
			return
		}
		files, err := Open(dir)
		check(t, err)
		check(t, files.Close())
	})
}
