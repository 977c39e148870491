// Package lines opens files of lines to append to.
package lines

import (
	"bytes"
	"io"
	"os"
)

// Trim cuts off what follows the last line end of file, left by a writer that did not finish, and gives the
// size that is left.
func Trim(file *os.File) (int64, error) {
	size, err := whole(file)
	if err != nil {
		return 0, err
	}
	return size, file.Truncate(size)
}

func whole(file *os.File) (int64, error) {
	end, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	block := make([]byte, min(end, 64<<10))
	for end > 0 {
		from := max(0, end-int64(len(block)))
		part := block[:end-from]
		if _, err := file.ReadAt(part, from); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(part, '\n'); i >= 0 {
			return from + int64(i) + 1, nil
		}
		end = from
	}
	return 0, nil
}
