package artefact

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"lambent"
	"lambent/executor/wasm/internal/module"
)

// Artefact is what the compiler made, in its memory.
type Artefact struct {
	Meta                  Meta
	Module, Native, Image []byte
}

// The stream from a compiler to the host is the length of a head in four bytes, little endian, the head as JSON, and
// then module, native code and the written parts of the image. The host believes none of it without a check: the
// compiler has run code of the module.
type head struct {
	Error  *lambent.Error `json:"error,omitempty"` // instead of all that follows
	Meta   *Meta          `json:"meta,omitempty"`
	Module int64          `json:"module,omitempty"` // bytes
	Native int64          `json:"native,omitempty"` // bytes
	Image  [][2]int64     `json:"image,omitempty"`  // parts of the image that are not zero: offset and length, ascending
}

// MaxImage is how much of an image may be other than zero, bytes, in whole pages.
const MaxImage = 128 << 20

const (
	maxHead   = 8 << 20
	maxNative = 512 << 20
	maxPages  = 1 << 16
	maxText   = 8 << 10 // bytes of a text in an error
	part      = module.PageSize
	block     = 4096 // what a sparse file leaves out
)

// Send writes the artefact.
func (a *Artefact) Send(w io.Writer) error {
	h := head{Meta: &a.Meta, Module: int64(len(a.Module)), Native: int64(len(a.Native)), Image: written(a.Image)}
	contents := [][]byte{a.Module, a.Native}
	for _, p := range h.Image {
		contents = append(contents, a.Image[p[0]:p[0]+p[1]])
	}
	return send(w, h, contents)
}

// written gives the parts of an image that are not zero.
func written(image []byte) (parts [][2]int64) {
	for at := 0; at < len(image); at += part {
		if !zero(image[at : at+part]) {
			if n := len(parts); n > 0 && parts[n-1][0]+parts[n-1][1] == int64(at) {
				parts[n-1][1] += part
			} else {
				parts = append(parts, [2]int64{int64(at), part})
			}
		}
	}
	return parts
}

// Kept tells how much of the image is other than zero, see [MaxImage].
func (a *Artefact) Kept() int64 { return sum(written(a.Image)) }

func sum(parts [][2]int64) (n int64) {
	for _, p := range parts {
		n += p[1]
	}
	return n
}

// SendError writes why there is no artefact.
func SendError(w io.Writer, err *lambent.Error) error { return send(w, head{Error: err}, nil) }

func send(w io.Writer, h head, contents [][]byte) error {
	text, err := json.Marshal(h)
	if err != nil {
		return err
	}
	for _, b := range append([][]byte{binary.LittleEndian.AppendUint32(nil, uint32(len(text))), text}, contents...) {
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	return nil
}

func zero(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(zeros))
		if !bytes.Equal(b[:n], zeros[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}

var zeros [block]byte

// Receive writes the artefact that r brings into the folder dir, and syncs nothing. Before it writes anything it has accept,
// unless that is nil, see what will come and how many bytes it takes at most; an error of that is its own. A *lambent.Error
// else is what the compiler says of the module; other errors are the compiler's or this machine's.
func Receive(r io.Reader, dir string, accept func(m *Meta, size int64) error) error {
	in := bufio.NewReaderSize(r, 64<<10)
	h, err := readHead(in)
	if err != nil {
		return err
	}
	if accept != nil {
		if err := accept(h.Meta, h.Module+h.Native+sum(h.Image)); err != nil {
			return err
		}
	}
	text, err := json.Marshal(h.Meta)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, MetaFile), text, 0o444); err != nil {
		return err
	}
	for _, file := range []struct {
		name  string
		parts [][2]int64
		size  int64
	}{
		{ModuleFile, [][2]int64{{0, h.Module}}, h.Module},
		{NativeFile, [][2]int64{{0, h.Native}}, h.Native},
		{ImageFile, h.Image, h.size()},
	} {
		if err := receive(in, filepath.Join(dir, file.name), file.parts, file.size); err != nil {
			return err
		}
	}
	if _, err := in.ReadByte(); err != io.EOF {
		return fmt.Errorf("the compiler goes on after the artefact: %w", err)
	}
	return nil
}

// size is that of the image.
func (h *head) size() int64 {
	if !h.Meta.Image {
		return 0
	}
	return int64(h.Meta.Pages) * module.PageSize
}

func readHead(r io.Reader) (h head, err error) {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return h, fmt.Errorf("the compiler has said nothing: %w", err)
	}
	n := binary.LittleEndian.Uint32(length[:])
	if n > maxHead {
		return h, fmt.Errorf("the compiler wants to say %d bytes, more than %d", n, maxHead)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return h, fmt.Errorf("the compiler has not said all: %w", err)
	}
	if err := json.Unmarshal(text, &h); err != nil {
		return h, fmt.Errorf("the compiler speaks another language: %w", err)
	}
	if h.Error != nil {
		return h, refusal(h.Error)
	}
	if h.Meta == nil || h.Meta.Pages > maxPages || h.Meta.Overhead < 0 || h.Meta.Overhead > maxNative || h.Module < 0 || h.Module > module.MaxSize || h.Native < 0 || h.Native > maxNative {
		return h, errors.New("the compiler names sizes that cannot be")
	}
	end := int64(0)
	for _, p := range h.Image {
		if p[0] < end || p[1] <= 0 || p[1] > h.size() || p[0] > h.size()-p[1] {
			return h, errors.New("the compiler names parts of an image that cannot be")
		}
		end = p[0] + p[1]
	}
	if sum(h.Image) > MaxImage {
		return h, errors.New("the compiler names an image that is too large")
	}
	return h, nil
}

// refusal is e as far as a compiler may say it: it speaks about the module, not about Lambent.
func refusal(e *lambent.Error) error {
	cut := func(s string) string { return s[:min(len(s), maxText)] }
	switch e.Code {
	case lambent.CodeModuleUnsupported, lambent.CodeBundleInvalid, lambent.CodeStartFailed, lambent.CodeStartTimeout:
		own := lambent.Errorf(e.Code, "%s", cut(e.Message)).WithHint("%s", cut(e.Hint))
		own.Trace = cut(e.Trace)
		return own
	}
	return fmt.Errorf("the compiler failed: %q", cut(e.Message))
}

func receive(r io.Reader, path string, parts [][2]int64, size int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	err = f.Truncate(size)
	buf := make([]byte, part)
	for _, p := range parts {
		for at, end := p[0], p[0]+p[1]; at < end && err == nil; at += int64(len(buf)) {
			buf = buf[:min(part, end-at)]
			if _, err = io.ReadFull(r, buf); err == nil {
				err = writeSparse(f, buf, at)
			}
		}
		buf = buf[:part]
	}
	return errors.Join(err, f.Close())
}

func writeSparse(f *os.File, b []byte, at int64) error {
	for len(b) > 0 {
		n := min(len(b), block)
		if !zero(b[:n]) {
			if _, err := f.WriteAt(b[:n], at); err != nil {
				return err
			}
		}
		b, at = b[n:], at+int64(n)
	}
	return nil
}
