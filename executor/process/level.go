package process

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lambent"
	"lambent/executor"
	"lambent/internal/cgroup"
	"lambent/internal/sandbox"
)

// privileged tells whether we are root, and not just what a user namespace calls root.
func privileged() bool {
	raw, err := os.ReadFile("/proc/self/uid_map")
	return os.Geteuid() == 0 && err == nil && string(bytes.Join(bytes.Fields(raw), []byte(" "))) == "0 0 4294967295"
}

// settle finds out whether user namespaces do, and what there is if they do not.
func (e *Executor) settle(unsandboxed bool) {
	err := e.probe()
	if err == nil {
		return
	}
	message, hint := "this user cannot make sandboxes: %w", cureFor(err)
	switch {
	case !unsandboxed:
		hint += ", or start lambent as root; functions that you trust run without a sandbox with lambent up --unsandboxed"
		e.away = lambent.Errorf(lambent.CodeTierUnavailable, message, err).WithHint("%s", hint)
	case os.Geteuid() == 0:
		e.away = lambent.Errorf(lambent.CodeTierUnavailable, message, err).WithHint("%s; root runs nothing without a sandbox", hint)
	default:
		e.level, e.bare = lambent.IsolationNone, lambent.Errorf(lambent.CodeTierUnavailable, message, err).WithHint("%s", hint)
	}
}

// probe makes a sandbox. Its program is a folder, which the kernel refuses to execute: the last step, after all
// the others.
func (e *Executor) probe() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	dir, err := filepath.Abs(e.dir.Name())
	if err != nil {
		return err
	}
	in, err := e.launch(ctx, executor.Spec{ID: lambent.NewID(), CodeDir: dir, Log: func(lambent.LogLine) {},
		Revision: &lambent.Revision{Function: "probe", Settings: lambent.Settings{Memory: 64, CPU: 1000, Pids: 16}},
	}, program{argv: []string{"/"}})
	if err != nil {
		return cmp.Or(errors.Unwrap(err), err) // without what every caller is told
	}
	select {
	case <-in.done:
	case <-ctx.Done():
	}
	in.Stop(0)
	switch {
	case in.failure == nil:
		return errors.New("lambent-init ended without a word")
	case in.failure.Step != sandbox.StepExec:
		return fmt.Errorf("%s: %s", in.failure.Step, in.failure.Err)
	}
	return nil
}

// cureFor says what makes sandboxes possible, by what commonly forbids them.
func cureFor(err error) string {
	for _, c := range []struct{ file, value, cure string }{
		{"/proc/sys/user/max_user_namespaces", "0", "allow user namespaces: sysctl user.max_user_namespaces=10000"},
		{"/proc/sys/kernel/unprivileged_userns_clone", "0", "allow user namespaces: sysctl kernel.unprivileged_userns_clone=1"},
		{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "allow user namespaces: sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for lambent that says userns"},
	} {
		if raw, err := os.ReadFile(c.file); err == nil && strings.TrimSpace(string(raw)) == c.value {
			return c.cure
		}
	}
	if strings.HasPrefix(err.Error(), "mount /proc") {
		return "a container hides parts of /proc here: in a pod, set procMount: Unmasked"
	}
	return "let the container's seccomp filter and security policy allow user namespaces"
}

// namespaces says in which ones lambent-init starts.
func (e *Executor) namespaces() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true} // a Ctrl-C at our terminal is for us
	switch e.level {
	case lambent.IsolationUserns:
		attr.Cloneflags = unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
		fallthrough
	case lambent.IsolationFull:
		attr.Cloneflags |= unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET
	}
	return attr
}

// limit gives what limits an instance.
func (e *Executor) limit(id string, l cgroup.Limits) (resources, error) {
	if e.tree == nil {
		return newWatched(l.Memory, e.level != lambent.IsolationNone), nil
	}
	group, err := e.tree.Create(id, l)
	if err != nil {
		return nil, err
	}
	return group, nil
}

// limited gives what limits an instance that another process has started.
func (e *Executor) limited(id string, l cgroup.Limits, init supervisor, pid int) resources {
	if e.tree != nil {
		return e.tree.Group(id)
	}
	w := newWatched(l.Memory, e.level != lambent.IsolationNone)
	w.begin(init, pid)
	return w
}

// outside puts the host's folders for those of a sandbox into the arguments of a program that has none.
func outside(argv []string, code, shim string) []string {
	replace := strings.NewReplacer(sandbox.CodeDir, code, sandbox.RuntimeDir, shim)
	var out []string
	for _, arg := range argv {
		out = append(out, replace.Replace(arg))
	}
	return out
}

// Isolation implements executor.Executor.
func (e *Executor) Isolation() lambent.Isolation {
	if e.away != nil {
		return lambent.Isolation{Level: lambent.IsolationNone, Lacks: []string{e.away.Message}}
	}
	return lambent.Isolation{Level: e.level, Lacks: e.lacks()}
}

// lacks says what of the level full is not there; the reasons are among the findings.
func (e *Executor) lacks() (lacks []string) {
	switch e.level {
	case lambent.IsolationNone:
		lacks = []string{
			fmt.Sprintf("a sandbox: it has the files, network and processes of user %d", os.Geteuid()),
			"a certain end: it may get away from its limits and from being stopped",
		}
	case lambent.IsolationUserns:
		lacks = []string{"a user of its own: it has lambent's, and that user's limits in the kernel"}
		if groups, err := os.Getgroups(); err != nil || slices.ContainsFunc(groups, func(g int) bool { return g != os.Getegid() }) {
			lacks = append(lacks, "a loss of groups: it has lambent's")
		}
	}
	if e.tree == nil {
		lacks = append(lacks, "a limit of CPU", "a firm limit of memory: it is looked at several times a second")
	}
	if e.tree == nil && e.level == lambent.IsolationNone {
		lacks = append(lacks, "a limit of processes")
	}
	return lacks
}
