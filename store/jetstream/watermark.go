package jetstream

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"

	"lambent/internal/durable"
)

// state is what the watermark remembers of the stream: all that was acknowledged.
type state struct {
	Last uint64 // sequence of the last message
	Live int    // number of keys that exist
	Sum  uint64 // of hash(key, revision) over those keys, modulo 2^64
}

func (s *state) add(key string, revision uint64) {
	s.Live++
	s.Sum += hash(key, revision)
}

func (s *state) remove(key string, revision uint64) {
	s.Live--
	s.Sum -= hash(key, revision)
}

func hash(key string, revision uint64) uint64 {
	sum := sha256.Sum256(binary.LittleEndian.AppendUint64([]byte(key), revision))
	return binary.LittleEndian.Uint64(sum[:])
}

// The file holds one line of fixed length, for people too. It is overwritten in place: it lies within one
// sector, so it is never torn, and needs no space on a full disk.
const watermarkLine = "lambent-watermark-1 last=%020d live=%020d sum=%016x"

func (s state) line() []byte {
	line := fmt.Appendf(nil, watermarkLine, s.Last, s.Live, s.Sum)
	check := sha256.Sum256(line)
	return fmt.Appendf(line, " check=%x\n", check[:8])
}

func parseState(line []byte) (state, error) {
	var s state
	if _, err := fmt.Sscanf(string(line), watermarkLine, &s.Last, &s.Live, &s.Sum); err != nil || !bytes.Equal(line, s.line()) {
		return state{}, fmt.Errorf("the watermark is damaged: %d bytes, %.200q", len(line), line)
	}
	return s, nil
}

// watermark is the file. Each write is on the disk when it returns.
type watermark struct{ file *os.File }

// readWatermark gives the state in the file at path; the error wraps os.ErrNotExist if there is no file.
func readWatermark(path string) (state, error) {
	line, err := os.ReadFile(path)
	if err != nil {
		return state{}, err
	}
	return parseState(line)
}

// createWatermark makes the file, whole or not at all, in place of any other.
func createWatermark(path string, s state) error { return durable.WriteFile(path, s.line(), 0o600) }

// overwriteWatermark changes a file that is there, in place: a full disk is no reason not to open a store.
func overwriteWatermark(path string, s state) error {
	w, err := openWatermark(path)
	if err != nil {
		return err
	}
	return errors.Join(w.write(s), w.close())
}

func openWatermark(path string) (*watermark, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_DSYNC, 0)
	if err != nil {
		return nil, err
	}
	return &watermark{f}, nil
}

func (w *watermark) write(s state) error {
	_, err := w.file.WriteAt(s.line(), 0)
	return err
}

func (w *watermark) close() error { return w.file.Close() }
