//go:build integration

package durability

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"lambent/test/fault"
)

// On ext4 a folder takes room, too. Where /run is in memory, as with systemd, functions start all the same.
func TestIntegrationFullExt4(t *testing.T) {
	if !fault.Namespace(t) {
		return
	}
	check(t, unix.Mount("lambent-test", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"))
	disk, err := fault.MountExt4(t.TempDir(), 400<<20)
	check(t, err)
	testFullDisk(t, disk)
	if left, err := filepath.Glob("/run/lambent/*"); err != nil || len(left) > 0 {
		t.Errorf("left in memory: %v, %v", left, err)
	}
}
