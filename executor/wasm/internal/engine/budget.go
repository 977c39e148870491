package engine

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
)

// budget bounds a sum.
type budget struct {
	limit int64
	used  atomic.Int64
}

// take adds n, or says that it would be too much.
func (b *budget) take(n int64) bool {
	for {
		used := b.used.Load()
		if used+n > b.limit {
			return false
		}
		if b.used.CompareAndSwap(used, used+n) {
			return true
		}
	}
}

func (b *budget) give(n int64) { b.used.Add(-n) }

// Mappings of the process, counted as if no two of them would be merged by the kernel.
const (
	programMaps  = 2 // native code, entry code
	instanceMaps = 3 // memory before, in and after the image
	spareMaps    = 4096
)

// mapLimit is how many mappings guests may have: what the kernel allows a process, less some for Go's heap and stacks.
func mapLimit() (int64, error) {
	const file = "/proc/sys/vm/max_map_count"
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil || n < 2*spareMaps {
		return 0, fmt.Errorf("%s says %q, and at least %d are needed", file, text, 2*spareMaps)
	}
	return n - spareMaps, nil
}
