package route

import (
	"context"
	"sync"
)

// Progress tells how far a watch of the store has come, whose changes are applied in the order of their
// versions.
type Progress struct {
	mu      sync.Mutex // guards what follows
	applied uint64
	changed chan struct{} // closed when applied grows
}

// NewProgress is at the beginning: nothing is applied.
func NewProgress() *Progress { return &Progress{changed: make(chan struct{})} }

// Applied says that all changes up to version have taken effect.
func (p *Progress) Applied(version uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if version > p.applied {
		p.applied = version
		close(p.changed)
		p.changed = make(chan struct{})
	}
}

// Wait returns when all changes up to version have taken effect, or with ctx's error.
func (p *Progress) Wait(ctx context.Context, version uint64) error {
	for {
		p.mu.Lock()
		applied, changed := p.applied, p.changed
		p.mu.Unlock()
		if applied >= version {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
