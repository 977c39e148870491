// Package guest runs programs in a virtual machine: a Debian with a kernel and a root disk of its own, a pure
// cgroup version 2 hierarchy and no network. QEMU emulates the processors (TCG), which takes 10 to 20 times
// as long as running on them. It never uses /dev/kvm: that it can be opened does not mean that a guest boots,
// and a test that is quick on some machines only has bounds that are wrong on all others.
package guest

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// What a guest has.
const (
	Processors = 2
	MemoryMiB  = 2048
)

// Job is what to run in a guest.
type Job struct {
	Files  map[string]string // put into the guest's /payload: name there -> file here
	Script string            // of sh, runs in /payload as root
	Output io.Writer         // gets what the guest prints, line by line
}

// Run boots a guest, runs the script in it and gives its exit code. An error means that the guest could not
// be made, did not boot, or did not get to the end of the script before ctx ended.
func Run(ctx context.Context, job Job) (code int, err error) {
	image, err := prepare(ctx)
	if err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "lambent-guest-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	initramfs, err := pack(ctx, dir, image, job)
	if err != nil {
		return 0, err
	}
	qemu := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", strconv.Itoa(Processors), "-m", strconv.Itoa(MemoryMiB),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-kernel", filepath.Join(image, "vmlinuz"), "-initrd", initramfs,
		"-append", "console=ttyS0 loglevel=1 panic=-1 cgroup_no_v1=all random.trust_cpu=on mitigations=off tsc=unstable clocksource=hpet",
		"-drive", "file="+filepath.Join(image, "root.ext4")+",if=none,id=root,format=raw,snapshot=on", "-device", "virtio-blk-pci,drive=root")
	qemu.Env = append(os.Environ(), "TMPDIR="+dir) // for what the guest writes to its disk
	console, err := qemu.StdoutPipe()
	if err != nil {
		return 0, err
	}
	var complaint strings.Builder
	qemu.Stderr = &complaint
	// It goes with us, however we end. The kernel ties that to the thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := qemu.Start(); err != nil {
		return 0, err
	}
	code, told := follow(console, job.Output)
	err = qemu.Wait()
	switch {
	case told:
		return code, nil
	case ctx.Err() != nil:
		return 0, fmt.Errorf("the guest did not end in time: %w", ctx.Err())
	}
	return 0, errors.Join(fmt.Errorf("the guest ended without an exit code: %s", complaint.String()), err)
}

// follow copies the console to w until its end and finds the exit code that the guest's init has told.
func follow(console io.Reader, w io.Writer) (code int, told bool) {
	lines := bufio.NewReader(console)
	for {
		line, err := lines.ReadString('\n')
		line = strings.ReplaceAll(line, "\r", "")
		if line != "" {
			fmt.Fprintln(w, strings.TrimSuffix(line, "\n"))
		}
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), "guest: exit "); ok {
			n, err := strconv.Atoi(text)
			code, told = n, err == nil
		}
		if err != nil {
			return code, told
		}
	}
}

// prepare gives the folder with the kernel and the root disk, which it makes when no earlier run has.
func prepare(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	script := filepath.Join(strings.TrimSpace(string(out)), "scripts", "guest-image")
	recipe, err := os.ReadFile(script)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	image := filepath.Join(cache, "lambent", fmt.Sprintf("guest-%.6x", sha256.Sum256(recipe)))
	if _, err := os.Stat(image); err == nil {
		return image, nil
	}
	if out, err := exec.CommandContext(ctx, script, image).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", script, err, out)
	}
	return image, nil
}

// pack makes the initramfs.
func pack(ctx context.Context, dir, image string, job Job) (string, error) {
	files := map[string]string{"init": filepath.Join(dir, "init"), "payload/run": filepath.Join(dir, "run")}
	build := exec.CommandContext(ctx, "go", "build", "-ldflags", "-s -w", "-o", files["init"], "lambent/test/guest/init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the guest's init: %w\n%s", err, out)
	}
	if err := os.WriteFile(files["payload/run"], []byte("#!/bin/sh\n"+job.Script), 0o700); err != nil {
		return "", err
	}
	modules, err := filepath.Glob(filepath.Join(image, "modules", "*.ko"))
	if err != nil {
		return "", err
	}
	for _, file := range modules {
		files["modules/"+filepath.Base(file)] = file
	}
	for name, file := range job.Files {
		files["payload/"+name] = file
	}
	f, err := os.Create(filepath.Join(dir, "initramfs"))
	if err != nil {
		return "", err
	}
	return f.Name(), errors.Join(writeInitramfs(f, files), f.Close())
}
