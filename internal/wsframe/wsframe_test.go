package wsframe

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"

	"pgregory.net/rapid"
)

// frame gives a frame with size bytes of payload, whose length is written in the shortest form, or in width bytes.
func frame(op byte, size int, width int, masked bool) []byte {
	f := []byte{0x80 | op, 0}
	switch {
	case width == 8 || size > 0xffff:
		f[1] = 127
		f = binary.BigEndian.AppendUint64(f, uint64(size))
	case width == 2 || size > 125:
		f[1] = 126
		f = binary.BigEndian.AppendUint16(f, uint16(size))
	default:
		f[1] = byte(size)
	}
	if masked {
		f[1] |= 0x80
		f = append(f, 1, 2, 3, 4)
	}
	return append(f, bytes.Repeat([]byte{0x88}, size)...) // what looks like a Close frame
}

// However a stream is cut into pieces, the borders are where the frames end.
func TestBorders(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var stream []byte
		ends := map[int]bool{}
		closeAt := -1
		for range rapid.IntRange(1, 8).Draw(t, "frames") {
			op := rapid.SampledFrom([]byte{0, 1, 2, 8, 9, 10}).Draw(t, "op")
			size := rapid.OneOf(rapid.IntRange(0, 130), rapid.SampledFrom([]int{125, 126, 127, 0xffff, 0x10000})).Draw(t, "size")
			if op == 8 && closeAt < 0 {
				closeAt = len(stream) + 2
			}
			stream = append(stream, frame(op, size, rapid.SampledFrom([]int{0, 2, 8}).Draw(t, "width"), rapid.Bool().Draw(t, "masked"))...)
			ends[len(stream)] = true
		}
		var b, skipper Border
		at := 0
		for at < len(stream) {
			piece := stream[at:]
			piece = piece[:min(len(piece), rapid.IntRange(1, 300).Draw(t, "piece"))]
			skipper.Skip(piece)
			for len(piece) > 0 {
				n := b.Next(piece)
				if n < 1 || n > len(piece) {
					t.Fatalf("%d of %d bytes", n, len(piece))
				}
				at, piece = at+n, piece[n:]
				if b.At() != ends[at] {
					t.Fatalf("at byte %d: border %v, want %v", at, b.At(), ends[at])
				}
				if len(piece) > 0 && !b.At() {
					t.Fatalf("Next stopped at byte %d, which is no border", at)
				}
				if want := closeAt >= 0 && at >= closeAt; b.Closed != want {
					t.Fatalf("at byte %d: closed %v, want %v", at, b.Closed, want)
				}
			}
			if skipper.At() != b.At() || skipper.Closed != b.Closed {
				t.Fatalf("Skip came to another end than Next")
			}
		}
	})
}

// A frame that claims to be endless has no border.
func TestEndless(t *testing.T) {
	var b Border
	b.Skip([]byte{0x82, 127, 255, 255, 255, 255, 255, 255, 255, 255})
	b.Skip(make([]byte, 1<<20))
	if b.At() || b.Closed {
		t.Errorf("%+v", b)
	}
}

func TestClose(t *testing.T) {
	for _, masked := range []bool{false, true} {
		f := Close(1012, "restart", masked)
		var b Border
		b.Skip(f)
		if !b.At() || !b.Closed {
			t.Errorf("%x is no whole Close frame", f)
		}
		payload := f[2:]
		if masked {
			key := f[2:6]
			payload = bytes.Clone(f[6:])
			for i := range payload {
				payload[i] ^= key[i%4]
			}
		}
		if code := binary.BigEndian.Uint16(payload); code != 1012 || string(payload[2:]) != "restart" {
			t.Errorf("code %d, reason %q", code, payload[2:])
		}
	}
}

func BenchmarkSkip(b *testing.B) {
	for _, c := range []struct {
		name string
		size int
	}{{"frames of 20 bytes", 20}, {"frames of 4 KiB", 4 << 10}} {
		b.Run(c.name, func(b *testing.B) {
			var stream []byte
			for len(stream) < 32<<10 {
				stream = append(stream, frame(2, c.size, 0, true)...)
			}
			stream = stream[:32<<10]
			b.SetBytes(int64(len(stream)))
			for b.Loop() {
				var border Border
				border.Skip(stream)
			}
		})
	}
	b.Run("copy", func(b *testing.B) { // what the least of all does with the same bytes
		src, dst := make([]byte, 32<<10), make([]byte, 32<<10)
		b.SetBytes(int64(len(src)))
		for b.Loop() {
			io.ReadFull(bytes.NewReader(src), dst)
		}
	})
}
