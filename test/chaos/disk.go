package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"

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
		ballast := filepath.Join(s.daemon.Data, "ballast")
		var emptied time.Time
		var w *writer
		err := s.written(ctx, func(began *writer) error {
			w = began
			return s.each(ctx, 1, func(int) error {
				if err := fill(ballast); err != nil {
					return err
				}
				time.Sleep(full)
				emptied = time.Now()
				return os.Remove(ballast)
			})
		})
		if err != nil {
			return err
		}
		recovered := w.after(emptied)
		switch {
		case w.refused == 0:
			return errors.New("no write was refused, so the disk was not full")
		case recovered == 0:
			return errors.New("no write was taken after there was room again")
		}
		s.report.AtMost("chaos_disk_recovery", recovered.Seconds(), "s", 2)
		return nil
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
