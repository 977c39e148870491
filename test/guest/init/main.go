// Command init is PID 1 of a guest of package guest. It starts in the initramfs, makes the root disk the root,
// with a pure cgroup version 2 hierarchy, runs /payload/run, and tells its exit code on the console.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	fmt.Println("guest: up")
	code, err := run()
	if err != nil {
		fmt.Println("guest:", err)
	} else {
		fmt.Println("guest: exit", code)
	}
	if err := flush(); err != nil {
		fmt.Println("guest:", err)
	}
	// There is nobody to tell an error: the host gives a guest that does not end its time and no more.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

func run() (code int, err error) {
	if err := loadModules(); err != nil {
		return 0, err
	}
	if err := enterRoot(); err != nil {
		return 0, err
	}
	if err := loopbackUp(); err != nil {
		return 0, fmt.Errorf("loopback: %w", err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	child, err := os.StartProcess("/payload/run", []string{"run"}, &os.ProcAttr{
		Dir:   "/payload",
		Env:   []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"},
		Files: []*os.File{null, os.Stdout, os.Stdout},
	})
	if err != nil {
		return 0, err
	}
	return reap(child.Pid)
}

// loadModules loads what the kernel needs to see the disk, in the order of the files' names.
func loadModules() error {
	files, err := filepath.Glob("/modules/*.ko")
	if err != nil {
		return err
	}
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil {
			return fmt.Errorf("load %s: %w", file, err)
		}
		f.Close()
	}
	return nil
}

// enterRoot does what switch_root(8) does, but keeps the payload, which lies in the initramfs.
func enterRoot() error {
	const root = "/root"
	mounts := []struct {
		source, target, kind string
		flags                uintptr
		data                 string
	}{
		{"dev", "/dev", "devtmpfs", 0, ""},
		{"/dev/vda", root, "ext4", 0, ""},
		{"dev", root + "/dev", "devtmpfs", 0, ""},
		{"tmpfs", root + "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, ""},
		{"proc", root + "/proc", "proc", 0, ""},
		{"sys", root + "/sys", "sysfs", 0, ""},
		{"cgroup2", root + "/sys/fs/cgroup", "cgroup2", 0, "nsdelegate,memory_recursiveprot"}, // as systemd does
		{"tmpfs", root + "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"tmpfs", root + "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
		{"/payload", root + "/payload", "", unix.MS_BIND, ""},
	}
	for _, m := range mounts {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := awaitMount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.source, m.target, err)
		}
	}
	if err := unix.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return unix.Chdir("/")
}

// awaitMount gives the kernel five seconds to find the disk after its driver was loaded.
func awaitMount(source, target, kind string, flags uintptr, data string) error {
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Mount(source, target, kind, flags, data)
		if !errors.Is(err, unix.ENOENT) || time.Now().After(deadline) {
			return err
		}
	}
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}

// reap waits for all that dies here, as is PID 1's duty, until the main process has.
func reap(main int) (code int, err error) {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, err
		case pid == main && status.Exited():
			return status.ExitStatus(), nil
		case pid == main && status.Signaled():
			return 128 + int(status.Signal()), nil
		}
	}
}

// flush waits until the console has sent what was written.
func flush() error {
	_, err := io.WriteString(os.Stdout, "")
	return errors.Join(err, unix.IoctlSetInt(int(os.Stdout.Fd()), unix.TCSBRK, 1))
}
