package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"lambent"
	"lambent/store/jetstream"
)

// fullDisk fills the disk that the data is on for a while, under load and with a writer. Requests go on; writes
// are refused with the reason until there is room again, and no acknowledged one is lost.
func fullDisk(ctx context.Context, short bool) error {
	full := 20 * time.Second
	if short {
		full = 6 * time.Second
	}
	return scenario{name: "disk", disk: jetstream.DefaultReserve + 256<<20, play: func(ctx context.Context, s *stage) error {
		w, err := newWriter(ctx, s.daemon.Client)
		if err != nil {
			return err
		}
		writing, stop := context.WithTimeout(ctx, s.length)
		defer stop()
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			w.run(writing)
		}()
		ballast := filepath.Join(s.daemon.Data, "ballast")
		var emptied time.Time
		err = s.each(ctx, 1, func(int) error {
			if err := fill(ballast); err != nil {
				return err
			}
			time.Sleep(full)
			emptied = time.Now()
			return os.Remove(ballast)
		})
		<-stopped
		if err != nil {
			return err
		}
		missing, err := w.missing(ctx)
		if err != nil {
			return err
		}
		s.report.Notes["writer"] = fmt.Sprintf("%d acknowledged, refused are %v", w.acked, w.refused)
		for i, what := range slices.Concat(w.unclear, missing)[:min(maxExamples, len(w.unclear)+len(missing))] {
			s.report.Notes["writer "+strconv.Itoa(i+1)] = what
		}
		s.none("writes_missing", len(missing))
		s.none("writes_refused_unclear", len(w.unclear))
		if w.refused[lambent.CodeStorageFull] == 0 {
			return errors.New("no write was refused, so the disk was not full")
		}
		recovered := w.after(emptied)
		if recovered == 0 {
			return errors.New("no write was taken after there was room again")
		}
		s.report.AtMost("chaos_disk_recovery", recovered.Seconds(), "s", 2)
		return w.remove(ctx)
	}}.run(ctx, short)
}

// fill makes a file that takes all the room there is.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for block := make([]byte, 1<<20); len(block) > 0; {
		if _, err = f.Write(block); err != nil {
			block = block[:len(block)/2] // the last bytes, too
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		return err
	}
	return nil
}
