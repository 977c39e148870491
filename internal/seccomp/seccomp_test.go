package seccomp

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

const (
	allow = uint32(retAllow)
	kill  = uint32(retKill)
	nosys = retErrno | uint32(unix.ENOSYS)
)

// run simulates a call. The machine of x/net/bpf reads network packets, so the words go in big-endian;
// the low word of an argument stands first, as on both architectures.
func run(t testing.TB, vm *bpf.VM, arch, nr uint32, args [6]uint64) uint32 {
	data := make([]byte, 64)
	binary.BigEndian.PutUint32(data[offNumber:], nr)
	binary.BigEndian.PutUint32(data[offArch:], arch)
	for i, v := range args {
		binary.BigEndian.PutUint32(data[offArgs+8*i:], uint32(v))
		binary.BigEndian.PutUint32(data[offArgs+8*i+4:], uint32(v>>32))
	}
	got, err := vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(got)
}

func machine(t testing.TB, arch string) *bpf.VM {
	raw, err := Filter(arch)
	if err != nil {
		t.Fatal(err)
	}
	code, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("the filter does not disassemble")
	}
	vm, err := bpf.NewVM(code)
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

func TestCalls(t *testing.T) {
	const high = uint64(1) << 32
	cases := []struct {
		call string
		args [6]uint64
		want uint32
	}{
		{"read", [6]uint64{}, allow},
		{"openat", [6]uint64{}, allow},
		{"execve", [6]uint64{}, allow},
		{"close_range", [6]uint64{}, allow},
		{"newfstatat", [6]uint64{}, allow},
		{"clone3", [6]uint64{}, nosys},
		{"clone", [6]uint64{uint64(unix.SIGCHLD)}, allow},
		{"clone", [6]uint64{unix.CLONE_VM | unix.CLONE_VFORK | uint64(unix.SIGCHLD)}, allow},
		{"clone", [6]uint64{unix.CLONE_NEWUSER | uint64(unix.SIGCHLD)}, refused},
		{"clone", [6]uint64{unix.CLONE_NEWNS}, refused},
		{"clone", [6]uint64{unix.CLONE_NEWPID}, refused},
		{"clone", [6]uint64{unix.CLONE_NEWNET}, refused},
		{"clone", [6]uint64{unix.CLONE_NEWIPC}, refused},
		{"clone", [6]uint64{unix.CLONE_NEWUTS}, refused},
		{"clone", [6]uint64{unix.CLONE_NEWCGROUP}, refused},
		{"unshare", [6]uint64{}, refused},
		{"setns", [6]uint64{}, refused},
		{"mount", [6]uint64{}, refused},
		{"umount2", [6]uint64{}, refused},
		{"open_tree", [6]uint64{}, refused},
		{"move_mount", [6]uint64{}, refused},
		{"fsopen", [6]uint64{}, refused},
		{"mount_setattr", [6]uint64{}, refused},
		{"pivot_root", [6]uint64{}, refused},
		{"chroot", [6]uint64{}, refused},
		{"swapon", [6]uint64{}, refused},
		{"reboot", [6]uint64{}, refused},
		{"kexec_load", [6]uint64{}, refused},
		{"init_module", [6]uint64{}, refused},
		{"finit_module", [6]uint64{}, refused},
		{"sethostname", [6]uint64{}, refused},
		{"open_by_handle_at", [6]uint64{}, refused},
		{"syslog", [6]uint64{}, refused},
		{"settimeofday", [6]uint64{}, refused},
		{"socket", [6]uint64{unix.AF_UNIX}, allow},
		{"socket", [6]uint64{unix.AF_INET}, allow},
		{"socket", [6]uint64{unix.AF_INET6}, allow},
		{"socket", [6]uint64{unix.AF_NETLINK}, allow},
		{"socket", [6]uint64{unix.AF_INET | high}, refused},
		{"socket", [6]uint64{unix.AF_ALG}, refused},
		{"socket", [6]uint64{unix.AF_VSOCK}, refused},
		{"socket", [6]uint64{unix.AF_PACKET}, refused},
		{"personality", [6]uint64{0}, allow},
		{"personality", [6]uint64{0x20008}, allow},
		{"personality", [6]uint64{0xffffffff}, allow},
		{"personality", [6]uint64{0xffffffff | high}, refused},
		{"personality", [6]uint64{0x0040000}, refused}, // ADDR_NO_RANDOMIZE
	}
	for _, name := range never {
		cases = append(cases, struct {
			call string
			args [6]uint64
			want uint32
		}{name, [6]uint64{}, refused})
	}
	for arch := range audit {
		vm := machine(t, arch)
		for _, c := range cases {
			nr, ok := numbers[arch][c.call]
			if !ok {
				if arch == "arm64" && c.call == "modify_ldt" {
					continue // amd64 only
				}
				t.Fatalf("%s has no number for %s", arch, c.call)
			}
			if got := run(t, vm, audit[arch], nr, c.args); got != c.want {
				t.Errorf("%s %s%x: %#x, want %#x", arch, c.call, c.args, got, c.want)
			}
			other := audit["amd64"] ^ audit["arm64"] ^ audit[arch]
			for _, foreign := range []uint32{other, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_ARM, 0} {
				if got := run(t, vm, foreign, nr, c.args); got != kill {
					t.Errorf("%s under architecture %#x: %#x, want the process killed", c.call, foreign, got)
				}
			}
		}
	}
}

func TestX32IsRefused(t *testing.T) {
	vm := machine(t, "amd64")
	for nr := range uint32(600) {
		if got := run(t, vm, unix.AUDIT_ARCH_X86_64, x32Bit|nr, [6]uint64{}); got != refused {
			t.Errorf("x32 call %d: %#x", nr, got)
		}
	}
	if got := run(t, vm, unix.AUDIT_ARCH_X86_64, ^uint32(0), [6]uint64{}); got != refused {
		t.Errorf("call -1: %#x", got)
	}
}

// TestNoWiderThanTheProfile evaluates moby's rules the plain way and compares every number: what the
// filter allows the profile allows, and what it refuses beyond the profile is on our lists.
func TestNoWiderThanTheProfile(t *testing.T) {
	for arch := range audit {
		vm := machine(t, arch)
		names := make(map[uint32]string)
		for name, nr := range numbers[arch] {
			names[nr] = name
		}
		for nr := range uint32(1000) {
			for _, arg := range []uint64{0, 1, 8, 38, 40, 0x10000000, 0x20000, 0x7e020000, 1 << 40, ^uint64(0)} {
				args := [6]uint64{arg, arg, arg, arg, arg, arg}
				got, want := run(t, vm, audit[arch], nr, args), plain(arch, names[nr], args)
				if got == want || got == refused && (slices.Contains(never, names[nr]) || names[nr] == "socket") {
					continue
				}
				t.Errorf("%s %d (%s) with %#x: %#x, the profile says %#x", arch, nr, names[nr], arg, got, want)
			}
		}
	}
}

func plain(arch, name string, args [6]uint64) uint32 {
	for _, call := range seccomp.DefaultProfile().Syscalls {
		if !slices.Contains(call.Names, name) || !applies(call, arch) {
			continue
		}
		if !slices.ContainsFunc(call.Args, func(c specs.LinuxSeccompArg) bool { return !holds(c, args[c.Index]) }) {
			if call.Action == specs.ActAllow {
				return allow
			}
			return retErrno | uint32(*call.ErrnoRet)
		}
	}
	return refused
}

func holds(c specs.LinuxSeccompArg, arg uint64) bool {
	switch c.Op {
	case specs.OpEqualTo:
		return arg == c.Value
	case specs.OpNotEqual:
		return arg != c.Value
	case specs.OpGreaterThan:
		return arg > c.Value
	case specs.OpGreaterEqual:
		return arg >= c.Value
	case specs.OpLessThan:
		return arg < c.Value
	case specs.OpLessEqual:
		return arg <= c.Value
	case specs.OpMaskedEqual:
		return arg&c.Value == c.ValueTwo
	}
	panic(c.Op)
}

// TestComparisons checks the code of every comparison, also of those that the profile does not use today.
func TestComparisons(t *testing.T) {
	ops := []specs.LinuxSeccompOperator{specs.OpEqualTo, specs.OpNotEqual, specs.OpGreaterThan,
		specs.OpGreaterEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpMaskedEqual}
	word := rapid.OneOf(rapid.Uint64(), rapid.Uint64Range(0, 4),
		rapid.Map(rapid.Uint64Range(0, 4), func(v uint64) uint64 { return v<<32 | v&1 }))
	rapid.Check(t, func(t *rapid.T) {
		var conditions []specs.LinuxSeccompArg
		for range rapid.IntRange(1, 3).Draw(t, "conditions") {
			conditions = append(conditions, specs.LinuxSeccompArg{
				Index: rapid.UintRange(0, 5).Draw(t, "index"), Op: rapid.SampledFrom(ops).Draw(t, "op"),
				Value: word.Draw(t, "value"), ValueTwo: word.Draw(t, "two"),
			})
		}
		code, err := decide(rule{{conditions, allow}, {conditions, kill}})
		if err != nil {
			t.Fatal(err)
		}
		vm, err := bpf.NewVM(code)
		if err != nil {
			t.Fatal(err)
		}
		var args [6]uint64
		for i := range args {
			args[i] = word.Draw(t, "arg")
		}
		data := make([]byte, 64)
		for i, v := range args {
			binary.BigEndian.PutUint32(data[offArgs+8*i:], uint32(v))
			binary.BigEndian.PutUint32(data[offArgs+8*i+4:], uint32(v>>32))
		}
		got, err := vm.Run(data)
		if err != nil {
			t.Fatal(err)
		}
		want := allow
		if slices.ContainsFunc(conditions, func(c specs.LinuxSeccompArg) bool { return !holds(c, args[c.Index]) }) {
			want = refused
		}
		if uint32(got) != want {
			t.Fatalf("%v on %x: %#x, want %#x", conditions, args, got, want)
		}
	})
}

func TestFarSearch(t *testing.T) {
	var spans []span
	for i := range uint32(2000) {
		spans = append(spans, span{i * 3, []bpf.Instruction{bpf.RetConstant{Val: i}}})
	}
	vm, err := bpf.NewVM(append([]bpf.Instruction{bpf.LoadAbsolute{Off: 0, Size: 4}}, search(spans)...))
	if err != nil {
		t.Fatal(err)
	}
	for nr := range uint32(6000) {
		if got := run(t, vm, 0, nr, [6]uint64{}); got != nr/3 {
			t.Fatalf("%d is in span %d, found %d", nr, nr/3, got)
		}
	}
}

func TestUnknownArchitecture(t *testing.T) {
	if _, err := Filter("riscv64"); err == nil {
		t.Error("a filter for an architecture without a table")
	}
}

const childEnv = "SECCOMP_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		child()
		return
	}
	os.Exit(m.Run())
}

// TestInAProcess loads the filter into a real process and makes it call.
func TestInAProcess(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want := "ptrace EPERM\nbpf EPERM\nunshare EPERM\nclone3 ENOSYS\nAF_ALG EPERM\nAF_UNIX ok\nadd_key EPERM\nnewuser EPERM\nexec ok\n"
	if string(out) != want {
		t.Errorf("got\n%swant\n%s", out, want)
	}
}

func child() {
	raw, err := Filter(runtime.GOARCH)
	check(err)
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread()
	check(unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		check(errno)
	}
	say := func(what string, errno unix.Errno) {
		result := "ok"
		if errno != 0 {
			result = unix.ErrnoName(errno)
		}
		fmt.Println(what, result)
	}
	call := func(what string, nr uintptr, args ...uintptr) {
		args = append(args, 0, 0, 0)
		_, _, errno := unix.Syscall(nr, args[0], args[1], args[2])
		say(what, errno)
	}
	call("ptrace", unix.SYS_PTRACE, unix.PTRACE_TRACEME)
	call("bpf", unix.SYS_BPF)
	call("unshare", unix.SYS_UNSHARE, unix.CLONE_NEWUSER)
	call("clone3", unix.SYS_CLONE3)
	call("AF_ALG", unix.SYS_SOCKET, unix.AF_ALG, unix.SOCK_SEQPACKET)
	call("AF_UNIX", unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_STREAM)
	call("add_key", unix.SYS_ADD_KEY)
	call("newuser", unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD))
	out, err := exec.Command("/bin/echo", "exec ok").Output()
	check(err)
	fmt.Println(strings.TrimSpace(string(out)))
}

func check(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func BenchmarkFilter(b *testing.B) {
	for b.Loop() {
		if _, err := Filter("amd64"); err != nil {
			b.Fatal(err)
		}
	}
}
