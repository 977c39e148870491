package fault_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"lambent/test/fault"
)

func TestDisk(t *testing.T) {
	if !fault.Namespace(t) {
		return
	}
	disk, err := fault.MountDisk(t.TempDir(), 8<<20)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(disk.Dir, "file")
	for _, leave := range []int64{0, 1 << 20} {
		if err := disk.Fill(leave); err != nil {
			t.Fatal(err)
		}
		if free, err := disk.Available(); err != nil || free != leave {
			t.Errorf("%d bytes are free, want %d: %v", free, leave, err)
		}
		if err := os.WriteFile(file, make([]byte, leave+1), 0o600); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("written on a full disk: %v", err)
		}
		if err := disk.Free(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, make([]byte, 6<<20), 0o600); err != nil {
			t.Error(err)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	if err := disk.Close(); err != nil {
		t.Error(err)
	}
}
