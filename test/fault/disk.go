package fault

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Disk is a file system of limited size in memory, which can be full.
type Disk struct {
	Dir string // where it is mounted

	mu      sync.Mutex
	ballast *os.File      // takes the room; nil while the disk is not being filled
	stop    chan struct{} // ends the writer that takes what gets free
	writer  sync.WaitGroup
}

// MountDisk mounts a disk of that many bytes on the folder dir, in the mount namespace of this process. It takes root.
func MountDisk(dir string, bytes int64) (*Disk, error) {
	if err := unix.Mount("lambent-test", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("size=%d,mode=0755", bytes)); err != nil {
		return nil, fmt.Errorf("mount a disk on %s: %w", dir, err)
	}
	return &Disk{Dir: dir}, nil
}

// MountExt4 is MountDisk with a file system as disks have them, of which nothing is kept for root: folders and files take
// room, too. It needs mkfs.ext4 and a loop device.
func MountExt4(dir string, bytes int64) (*Disk, error) {
	image := filepath.Clean(dir) + ".image"
	for _, command := range []string{
		fmt.Sprintf("truncate -s %d %q", bytes, image),
		fmt.Sprintf("mkfs.ext4 -q -m 0 %q", image),
		fmt.Sprintf("mount -o loop,nosuid,nodev %q %q", image, dir),
		fmt.Sprintf("rm %q", image),
	} {
		if out, err := exec.Command("sh", "-c", command).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%s: %w: %s", command, err, out)
		}
	}
	return &Disk{Dir: dir}, nil
}

// Available gives the bytes that are free.
func (d *Disk) Available() (int64, error) {
	var fs unix.Statfs_t
	err := unix.Statfs(d.Dir, &fs)
	return int64(fs.Bavail) * fs.Bsize, err
}

const (
	page      = 4096
	fillEvery = 5 * time.Millisecond
)

// Fill takes all room but leave bytes, as somebody else's program would that writes and writes: until [Disk.Free]
// it takes what gets free, too.
func (d *Disk) Fill(leave int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ballast != nil {
		return errors.New("the disk is being filled already")
	}
	f, err := os.Create(filepath.Join(d.Dir, "ballast"))
	if err != nil {
		return err
	}
	size := int64(0)
	take := func() error {
		free, err := d.Available()
		if err != nil {
			return err
		}
		for chunk := (free - leave) / page * page; chunk >= page; chunk = min(chunk/2, free) / page * page {
			switch err := unix.Fallocate(int(f.Fd()), 0, size, chunk); err {
			case nil:
				size += chunk
				return nil
			case unix.ENOSPC, unix.EINTR: // somebody was faster
			default:
				return os.NewSyscallError("fallocate", err)
			}
		}
		return nil
	}
	if err := take(); err != nil {
		return errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	d.ballast, d.stop = f, make(chan struct{})
	d.writer.Go(func() {
		for tick := time.NewTicker(fillEvery); ; {
			select {
			case <-tick.C:
				_ = take() // the disk is gone, or full
			case <-d.stop:
				tick.Stop()
				return
			}
		}
	})
	return nil
}

// Free gives the room back.
func (d *Disk) Free() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ballast == nil {
		return nil
	}
	close(d.stop)
	d.writer.Wait()
	err := errors.Join(os.Remove(d.ballast.Name()), d.ballast.Close())
	d.ballast = nil
	return err
}

// Close unmounts the disk, though somebody may still use it.
func (d *Disk) Close() error {
	return errors.Join(d.Free(), os.NewSyscallError("umount", unix.Unmount(d.Dir, unix.MNT_DETACH)))
}

const namespaceEnv = "LAMBENT_FAULT_NAMESPACE"

// Namespace runs the test once more, as a process in a mount namespace of its own, and tells whether this is that
// process: what it mounts is gone with it, however it ends. In the first process the test has passed or failed when
// Namespace returns.
func Namespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(namespaceEnv) == t.Name() {
		// Nothing that is mounted here shall appear outside.
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		return true
	}
	args := []string{"-test.run=^" + t.Name() + "$", "-test.count=1"}
	if testing.Verbose() {
		args = append(args, "-test.v")
	}
	if deadline, ok := t.Deadline(); ok {
		args = append(args, "-test.timeout="+time.Until(deadline).String())
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), namespaceEnv+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Run(); err != nil {
		t.Fatalf("in a mount namespace of its own: %v", err)
	}
	return false
}
