package bundle

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// maxPadding is how many zero bytes may follow the end of a tar archive; tar pads to 10 KiB.
const maxPadding = 1 << 20

// Spool is an empty file for what cannot be kept in memory.
type Spool interface {
	io.Writer
	io.ReaderAt
}

// Normalise reads a tar, tar.gz or zip archive from r, told apart by content, and writes it as a bundle to w.
// What is wrong with the archive comes as an [*Error]; errors of r, w and spool come as they are.
func Normalise(w io.Writer, r io.Reader, spool Spool, limits Limits) error {
	outer := &outside{w: w, r: r, spool: spool}
	err := normalise(writer{outer}, reader{outer}, spooler{outer}, limits)
	var known *Error
	switch {
	case err == nil:
		return nil
	case outer.err != nil:
		return outer.err
	case errors.As(err, &known):
		return known
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &Error{Problem: "the archive is cut short", Hint: "pack and upload it again"}
	}
	return &Error{Problem: fmt.Sprintf("the archive is damaged: %v", err), Hint: "pack and upload it again"}
}

// outside remembers the first error of what Normalise was given, to tell a lost connection or a full disk
// from a broken archive.
type outside struct {
	w     io.Writer
	r     io.Reader
	spool Spool
	err   error
}

func (o *outside) note(n int, err error) (int, error) {
	if err != nil && err != io.EOF && o.err == nil {
		o.err = err
	}
	return n, err
}

type (
	writer  struct{ *outside }
	reader  struct{ *outside }
	spooler struct{ *outside }
)

func (w writer) Write(p []byte) (int, error)  { return w.note(w.w.Write(p)) }
func (r reader) Read(p []byte) (int, error)   { return r.note(r.r.Read(p)) }
func (s spooler) Write(p []byte) (int, error) { return s.note(s.spool.Write(p)) }

func (s spooler) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 { // a zip directory can ask for it
		return 0, zip.ErrFormat
	}
	return s.note(s.spool.ReadAt(p, off))
}

func normalise(w io.Writer, r io.Reader, spool Spool, limits Limits) error {
	in := bufio.NewReaderSize(r, 64<<10)
	magic, err := in.Peek(4)
	if err != nil && err != io.EOF {
		return err
	}
	t := newTree(limits)
	switch {
	case bytes.HasPrefix(magic, []byte("PK\x03\x04")), bytes.HasPrefix(magic, []byte("PK\x05\x06")):
		err = t.readZip(in, spool)
	case bytes.HasPrefix(magic, []byte("\x1f\x8b")):
		var unzip *gzip.Reader
		if unzip, err = gzip.NewReader(in); err == nil {
			err = t.readTar(unzip, spool)
		}
	case len(magic) == 0:
		err = &Error{Problem: "the archive is empty", Hint: "send a tar, tar.gz or zip archive"}
	default:
		err = t.readTar(in, spool)
	}
	if err != nil {
		return err
	}
	entries, err := t.sorted()
	if err != nil {
		return err
	}
	return write(w, entries)
}

// readTar takes every entry of a tar archive; the files' content goes to spool.
func (t *tree) readTar(r io.Reader, spool Spool) error {
	counted := &counter{r: r}
	in := tar.NewReader(counted)
	spooled := int64(0)
	for headers := 0; ; headers++ {
		before := counted.n
		header, err := in.Next()
		switch {
		case err == io.EOF && counted.n-before < 512: // the zero block that ends an archive is not there
			return io.ErrUnexpectedEOF
		case err == io.EOF:
			return checkPadding(counted)
		case headers == 0 && (errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF)):
			return &Error{Problem: "this is neither a tar, a tar.gz nor a zip archive", Hint: "send one of these"}
		case err != nil:
			return err
		case headers >= 2*t.limits.Entries: // global headers are not entries
			return t.tooMany()
		}
		e := entry{path: header.Name, kind: header.Typeflag, exec: header.Mode&0o111 != 0, link: header.Linkname}
		switch header.Typeflag {
		case tar.TypeXGlobalHeader: // git archive writes one
			continue
		case tar.TypeReg, tar.TypeGNUSparse:
			e.kind, e.size, e.link = tar.TypeReg, header.Size, ""
			section := io.NewSectionReader(spool, spooled, header.Size)
			e.open = func() (io.ReadCloser, error) { return io.NopCloser(section), nil }
		case tar.TypeDir:
			e.link = ""
		case tar.TypeSymlink:
		default:
			return unsupported(header.Name, tarKind(header.Typeflag))
		}
		if err := t.add(e); err != nil {
			return err
		}
		if e.kind == tar.TypeReg {
			if _, err := io.Copy(spool, in); err != nil {
				return err
			}
			spooled += e.size
		}
	}
}

// readZip takes every entry of a zip archive, which goes to spool whole: its directory is at the end.
func (t *tree) readZip(r io.Reader, spool Spool) error {
	// Headers come on top of the content, and content that cannot be compressed grows a little.
	limit := t.limits.Bytes + t.limits.Bytes/64 + int64(t.limits.Entries)*4*maxPath
	size, err := io.Copy(spool, io.LimitReader(r, limit+1))
	if err != nil {
		return err
	}
	if size > limit {
		return &Error{TooLarge: true, Problem: fmt.Sprintf("the archive has more than %d bytes", limit)}
	}
	directory := &budget{r: spool, left: int64(t.limits.Entries)*maxPath + maxPadding}
	in, err := zip.NewReader(directory, size)
	if directory.left < 0 {
		return t.tooMany()
	}
	if err != nil {
		return err
	}
	directory.left = 1 << 62
	for _, f := range in.File {
		e := entry{path: f.Name, kind: tar.TypeReg, exec: f.Mode()&0o111 != 0, open: f.Open}
		mode := f.Mode()
		switch {
		case f.Flags&1 != 0:
			return unsupported(f.Name, "encrypted")
		case mode.IsDir():
			e.kind = tar.TypeDir
		case mode&fs.ModeSymlink != 0:
			e.kind = tar.TypeSymlink
			if e.link, err = readLink(f); err != nil {
				return err
			}
		case !mode.IsRegular():
			return unsupported(f.Name, "a device, pipe or socket")
		case f.UncompressedSize64 > 1<<62:
			return zip.ErrFormat
		default:
			e.size = int64(f.UncompressedSize64)
		}
		if err := t.add(e); err != nil {
			return err
		}
	}
	return nil
}

func readLink(f *zip.File) (string, error) {
	r, err := f.Open()
	if err != nil {
		return "", err
	}
	defer r.Close()
	target, err := io.ReadAll(io.LimitReader(r, maxPath+1))
	return string(target), err
}

func unsupported(name, what string) error {
	return &Error{Entry: name, Problem: "is " + what, Hint: "a bundle holds directories, files and relative links only"}
}

func tarKind(flag byte) string {
	switch flag {
	case tar.TypeLink:
		return "a hard link"
	case tar.TypeChar, tar.TypeBlock:
		return "a device"
	case tar.TypeFifo:
		return "a pipe"
	}
	return fmt.Sprintf("of the unknown type %q", flag)
}

// checkPadding reads on behind the end of a tar archive, where only some zeros may be.
func checkPadding(r io.Reader) error {
	rest, err := io.ReadAll(io.LimitReader(r, maxPadding+1))
	if err != nil {
		return err
	}
	if len(rest) > maxPadding || len(bytes.Trim(rest, "\x00")) > 0 {
		return &Error{Problem: "something follows the end of the archive", Hint: "pack and upload it again"}
	}
	return nil
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// budget stops zip.NewReader, which keeps the whole directory in memory.
type budget struct {
	r    io.ReaderAt
	left int64
}

func (b *budget) ReadAt(p []byte, off int64) (int, error) {
	if b.left -= int64(len(p)); b.left < 0 {
		return 0, zip.ErrFormat
	}
	return b.r.ReadAt(p, off)
}
