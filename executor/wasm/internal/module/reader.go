package module

import (
	"fmt"
	"unicode/utf8"
)

// reader walks src up to end. A read that does not succeed panics with *Error, which Parse turns into its result:
// checks after each of the hundreds of reads would hide what is read.
type reader struct {
	src     []byte
	at, end int
}

// catch is deferred where reads begin.
func catch(err *error) {
	switch e := recover().(type) {
	case nil:
	case *Error:
		*err = e
	default:
		panic(e)
	}
}

func fail(at int, format string, args ...any) {
	panic(&Error{Offset: at, What: fmt.Sprintf(format, args...)})
}

func unsupported(at int, feature, hint string) {
	panic(&Error{Offset: at, What: "the module uses " + feature + ", which this tier does not support", Hint: hint})
}

func (r *reader) left() int { return r.end - r.at }

func (r *reader) byte(what string) byte {
	if r.at >= r.end {
		fail(r.at, "%s is cut off", what)
	}
	r.at++
	return r.src[r.at-1]
}

func (r *reader) skip(n int, what string) {
	if n > r.left() {
		fail(r.at, "%s is cut off: %d bytes wanted, %d left", what, n, r.left())
	}
	r.at += n
}

// part takes the next n bytes as a reader of their own.
func (r *reader) part(n uint32, what string) *reader {
	from := r.at
	if int64(n) > int64(r.left()) {
		fail(from, "%s is cut off: %d bytes wanted, %d left", what, n, r.left())
	}
	r.at += int(n)
	return &reader{src: r.src, at: from, end: r.at}
}

// done refuses bytes that nothing has read.
func (r *reader) done(what string) {
	if r.at != r.end {
		fail(r.at, "%s has %d bytes too many", what, r.left())
	}
}

// u32 reads LEB128. Encodings longer than needed are common: linkers leave room for relocations.
func (r *reader) u32(what string) uint32 {
	from := r.at
	var v uint32
	for shift := 0; shift < 35; shift += 7 {
		b := r.byte(what)
		if shift == 28 && b > 0x0f {
			fail(from, "%s is not a number of 32 bits", what)
		}
		v |= uint32(b&0x7f) << shift
		if b < 0x80 {
			break
		}
	}
	return v
}

// signed reads LEB128 of at most bits bits.
func (r *reader) signed(bits int, what string) int64 {
	from := r.at
	var v int64
	for shift := 0; ; shift += 7 {
		if shift >= bits {
			fail(from, "%s is not a number of %d bits", what, bits)
		}
		b := r.byte(what)
		if free := bits - shift; free < 7 { // the unused bits must repeat the sign
			if sign := int8(b<<1) >> free; sign != 0 && sign != -1 || b >= 0x80 {
				fail(from, "%s is not a number of %d bits", what, bits)
			}
		}
		v |= int64(b&0x7f) << shift
		if b < 0x80 {
			if rest := shift + 7; b&0x40 != 0 && rest < 64 {
				v |= -1 << rest
			}
			return v
		}
	}
}

// count reads the length of a vector whose entries are at least one byte each, so that no count promises more than
// the bytes that are there.
func (r *reader) count(most uint32, what string) uint32 {
	from := r.at
	n := r.u32("the number of " + what)
	if n > most {
		fail(from, "%d %s are more than %d", n, what, most)
	}
	if int64(n) > int64(r.left()) {
		fail(from, "%d %s do not fit into %d bytes", n, what, r.left())
	}
	return n
}

// index reads an index below limit.
func (r *reader) index(limit uint32, what string) uint32 {
	from := r.at
	n := r.u32("the index of a " + what)
	if n >= limit {
		fail(from, "there is no %s %d: the module has %d", what, n, limit)
	}
	return n
}

func (r *reader) name(what string) string {
	from := r.at
	n := r.count(MaxName, "bytes of "+what)
	part := r.part(n, what)
	text := r.src[part.at:part.end]
	if !utf8.Valid(text) {
		fail(from, "%s is not UTF-8", what)
	}
	return string(text)
}

func (r *reader) valueType(what string) ValueType {
	from := r.at
	t := ValueType(r.byte(what))
	switch t {
	case I32, I64, F32, F64, V128, FuncRef, ExternRef:
		return t
	case 0x69, 0x74:
		unsupported(from, "exception handling", hintExceptions)
	case 0x63, 0x64:
		unsupported(from, "typed function references", hintTarget)
	case 0x6a, 0x6b, 0x6c, 0x6d, 0x6e, 0x71, 0x72, 0x73:
		unsupported(from, "garbage collected types", hintGC)
	}
	fail(from, "%s is of an unknown type %#x", what, byte(t))
	return 0
}

func (r *reader) refType(what string) ValueType {
	from := r.at
	t := r.valueType(what)
	if t != FuncRef && t != ExternRef {
		fail(from, "%s is of type %s, which is no reference", what, t)
	}
	return t
}

func appendU32(b []byte, v uint32) []byte {
	for v >= 0x80 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v))
}

func appendSigned(b []byte, v int64) []byte {
	for v < -0x40 || v >= 0x40 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v)&0x7f)
}

func appendName(b []byte, name string) []byte {
	return append(appendU32(b, uint32(len(name))), name...)
}
