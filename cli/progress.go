package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// progress is a bar on a terminal, and nothing elsewhere.
type progress struct {
	w       io.Writer // nil when nobody looks
	what    string
	percent int64 // shown last
}

func newProgress(w io.Writer, what string) *progress {
	p := &progress{what: what, percent: -1}
	if isTerminal(w) {
		p.w = w
	}
	return p
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

const barWidth = 30

func (p *progress) show(sent, total int64) {
	if p.w == nil || total == 0 || sent*100/total == p.percent {
		return
	}
	p.percent = sent * 100 / total
	full := int(barWidth * p.percent / 100)
	fmt.Fprintf(p.w, "\r%s %s%s %3d%% of %.1f MB", p.what,
		strings.Repeat("█", full), strings.Repeat("░", barWidth-full), p.percent, float64(total)/1e6)
}

// clear removes the bar.
func (p *progress) clear() {
	if p.w != nil && p.percent >= 0 {
		fmt.Fprint(p.w, "\r\033[K")
	}
}
