package compile

import (
	"errors"
	"testing"
	"time"

	"lambent"
	. "lambent/executor/wasm/internal/moduletest"
)

// FuzzCompile: whatever the bytes are, they become an artefact or there is a reason that is not ours.
func FuzzCompile(f *testing.F) {
	f.Add(Command([][]byte{Body(0x10, 0)}))
	f.Add(reactor(loop))
	f.Add(reactor([]byte{0x41, 0, 0xd0, 0x70, 0x26, 0}, Section(4, Vec([]byte{0x70, 0, 1}))))
	f.Add(reactor([]byte{0x41, 3, 0x40, 0, 0x1a}, Section(11, Vec(append([]byte{1}, Name("*")...))), Section(12, []byte{1})))
	f.Add(Command([][]byte{Body(), Body()}, Section(8, []byte{1}), Section(6, Vec([]byte{0x7e, 1, 0x42, 5, 0x0b}))))
	f.Fuzz(func(t *testing.T, wasm []byte) {
		_, err := Compile(t.Context(), wasm, Options{Start: 20 * time.Millisecond, Memory: 16 << 20, Dir: t.TempDir()})
		var own *lambent.Error
		if err != nil && (!errors.As(err, &own) || own.Fault == lambent.FaultPlatform || own.Hint == "") {
			t.Fatalf("%#v", err)
		}
	})
}
