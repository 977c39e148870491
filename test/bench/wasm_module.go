package main

import (
	"archive/zip"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// module is what was built of a deployed function.
func (b *tier) module(ctx context.Context, name string) ([]byte, error) {
	f, err := b.Client.Function(ctx, "default", name)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(filepath.Join(b.Data, "code", "trees", strings.TrimPrefix(f.Latest.Code, "sha256:"), "main.wasm"))
}

// marker is a number in the code of the functions in test/bench/wasm.
const marker = 0x1badcafe

// variant is module with another number in the place of the marker: another module, in code as in digest, that does the
// same. Numbers up to 2^28 are as long as the marker, as constants in code are (signed LEB128).
func variant(module []byte, n int) ([]byte, error) {
	if !bytes.Contains(module, leb(marker)) {
		return nil, fmt.Errorf("the module has no constant %#x", marker)
	}
	return bytes.ReplaceAll(module, leb(marker), leb(1<<28+n)), nil
}

func leb(n int) (b []byte) {
	for ; n >= 0x40; n >>= 7 {
		b = append(b, byte(n&0x7f|0x80))
	}
	return append(b, byte(n))
}

// archived is the bundle of a function whose code is module.
func archived(module []byte) (*bytes.Reader, error) {
	var buf bytes.Buffer
	zw := zip.NewWriter(&buf)
	w, err := zw.Create("main.wasm")
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(module); err != nil {
		return nil, err
	}
	if err := zw.Close(); err != nil {
		return nil, err
	}
	return bytes.NewReader(buf.Bytes()), nil
}
