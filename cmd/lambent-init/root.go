package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"lambent/internal/sandbox"
)

const (
	locked   = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	emptyDir = "var/empty"
)

// masked are the files of /proc that tell of the whole machine and not of the sandbox.
var masked = []string{"kcore", "keys", "sysrq-trigger", "timer_list", "latency_stats", "sched_debug", "scsi", "acpi", "asound", "interrupts"}

// devices are the memory devices that a program may expect.
var devices = []string{"null", "zero", "full", "random", "urandom"}

// buildRoot puts a root file system together in a small tmpfs over spec.Root and makes it ours. All of it
// is read-only in the end but /tmp, /dev/shm and a job's /work, whose pages count as the function's memory.
func buildRoot(spec *sandbox.Spec) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return step("keep mounts to ourselves", err)
	}
	if err := unix.Mount("lambent", spec.Root, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=1m,nr_inodes=512,mode=755"); err != nil {
		return step("mount tmpfs on "+spec.Root, err)
	}
	if err := unix.Chdir(spec.Root); err != nil {
		return step("enter "+spec.Root, err)
	}
	for _, dir := range []string{"usr", "etc", "etc/ssl", "proc", "dev", "dev/shm", "tmp", "var", "var/task", "var/runtime", emptyDir} {
		if err := unix.Mkdir(dir, 0o755); err != nil {
			return step("mkdir /"+dir, err)
		}
	}
	for _, part := range []func(*sandbox.Spec) error{systemFiles, ownFiles, secretFiles, devFiles, procFiles, pivot} {
		if err := part(spec); err != nil {
			return err
		}
	}
	return step("set the host name", unix.Sethostname([]byte(spec.Hostname)))
}

// systemFiles shows what programs need of the host's root.
func systemFiles(spec *sandbox.Spec) error {
	if err := bind("/usr", "usr", locked); err != nil {
		return err
	}
	for _, name := range []string{"bin", "sbin", "lib", "lib64", "etc/alternatives", "etc/ssl/certs", "etc/localtime", "etc/ld.so.cache"} {
		if err := mirror("/"+name, name); err != nil {
			return err
		}
	}
	return nil
}

// mirror shows one file, folder or link of the host, if the host has it. A link stays a link.
func mirror(source, target string) error {
	info, err := os.Lstat(source)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return step("look at "+source, err)
	case info.Mode()&os.ModeSymlink != 0:
		link, err := os.Readlink(source)
		if err == nil {
			err = os.Symlink(link, target)
		}
		return step("link "+source, err)
	case info.IsDir():
		err = os.Mkdir(target, 0o755)
	default:
		err = os.WriteFile(target, nil, 0o644)
	}
	if err != nil {
		return step("make "+source, err)
	}
	return bind(source, target, locked)
}

func ownFiles(spec *sandbox.Spec) error {
	id := strconv.Itoa(spec.ID)
	for name, text := range map[string]string{
		"passwd":        "root:x:0:0::/:/usr/sbin/nologin\nfunction:x:" + id + ":" + id + "::/tmp:/usr/sbin/nologin\n",
		"group":         "root:x:0:\nfunction:x:" + id + ":\n",
		"hosts":         spec.Hosts + "127.0.0.1 localhost\n::1 localhost\n127.0.0.1 " + spec.Hostname + "\n",
		"nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
		"resolv.conf":   "",
		"hostname":      spec.Hostname + "\n",
	} {
		if err := os.WriteFile("etc/"+name, []byte(text), 0o644); err != nil {
			return step("write /etc/"+name, err)
		}
	}
	if err := bind(spec.Code, sandbox.CodeDir[1:], locked); err != nil {
		return err
	}
	if spec.Runtime != "" {
		if err := bind(spec.Runtime, sandbox.RuntimeDir[1:], locked); err != nil {
			return err
		}
	}
	for _, f := range spec.Folders {
		if err := unix.Mkdir(f.Inside[1:], 0o755); err != nil {
			return step("mkdir "+f.Inside, err)
		}
		if err := bind(f.Host, f.Inside[1:], locked); err != nil {
			return err
		}
	}
	for _, dir := range []string{"tmp", "dev/shm"} {
		if err := scratch(dir, spec.TmpBytes, 65536); err != nil {
			return err
		}
	}
	if spec.Work == 0 {
		return nil
	}
	if err := unix.Mkdir(sandbox.WorkDir[1:], 0o755); err != nil {
		return step("mkdir "+sandbox.WorkDir, err)
	}
	return scratch(sandbox.WorkDir[1:], spec.Work, 1<<20)
}

// scratch mounts a folder that everybody may write to, whose pages count as the function's memory.
func scratch(dir string, bytes int64, files int) error {
	options := fmt.Sprintf("size=%d,nr_inodes=%d,mode=1777", bytes, files)
	return step("mount /"+dir, unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options))
}

// devFiles shows the host's devices: a user namespace may make none. To write to one is no write to its mount.
func devFiles(*sandbox.Spec) error {
	for _, name := range devices {
		if err := os.WriteFile("dev/"+name, nil, 0o644); err != nil {
			return step("make /dev/"+name, err)
		}
		if err := bind("/dev/"+name, "dev/"+name, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC); err != nil {
			return err
		}
	}
	for name, link := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(link, "dev/"+name); err != nil {
			return step("link /dev/"+name, err)
		}
	}
	return nil
}

// procFiles mounts a /proc of our pid namespace, read-only as a whole, in which a user sees just its own
// processes. In a user namespace the function's user is lambent-init's too, and what hides that from it is that
// lambent-init cannot be traced, see launch.
func procFiles(*sandbox.Spec) error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_RDONLY
	if err := unix.Mount("proc", "proc", "proc", flags, "hidepid=ptraceable"); err != nil {
		return step("mount /proc", err)
	}
	for _, name := range masked {
		target := "proc/" + name
		info, err := os.Lstat(target)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		cover := "dev/null"
		if err == nil && info.IsDir() {
			cover = emptyDir
		}
		if err := bind(cover, target, locked); err != nil { // nodev: nobody opens the null device by this name
			return err
		}
	}
	return nil
}

// pivot makes the folder we are in the root and lets go of the host's.
func pivot(*sandbox.Spec) error {
	if err := unix.PivotRoot(".", "."); err != nil {
		return step("pivot_root", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil { // the host's root lies on top of ours
		return step("unmount the host's root", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return step("enter the new root", err)
	}
	return step("make the root read-only", setAttributes(unix.AT_FDCWD, "/", 0, unix.MOUNT_ATTR_RDONLY))
}

// bind shows source at target with the attributes, which cover the mounts below it too. The copy is not
// attached before it has them, so it is at no time weaker than it shall be.
func bind(source, target string, attributes uint64) error {
	what := "mount /" + strings.TrimPrefix(target, "/")
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return step(what, fmt.Errorf("%s: %w", source, err))
	}
	defer unix.Close(tree)
	if err := setAttributes(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, attributes); err != nil {
		return step(what, err)
	}
	return step(what, unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH))
}

func setAttributes(fd int, path string, flags uint, attributes uint64) error {
	return unix.MountSetattr(fd, path, flags, &unix.MountAttr{Attr_set: attributes})
}
