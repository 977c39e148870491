// Package seccomp compiles the system call filter of sandboxes to classic BPF, without cgo.
//
// The rules are moby's default profile for a container that holds no capability, made stricter where a
// function never needs what containers may. A filter begins with the architecture, so that a call of
// another one kills the process, and refuses the x32 calls of amd64. Then comes a binary search over the
// call numbers: about nine comparisons for any call.
package seccomp

import (
	"errors"
	"fmt"
	"slices"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

//go:generate go run ./numgen

// What a filter answers, see seccomp(2).
const (
	retKill  = unix.SECCOMP_RET_KILL_PROCESS
	retErrno = unix.SECCOMP_RET_ERRNO
	retAllow = unix.SECCOMP_RET_ALLOW
	refused  = retErrno | uint32(unix.EPERM)
)

// maxInstructions is BPF_MAXINSNS of the kernel.
const maxInstructions = 4096

// x32Bit marks the calls of the x32 ABI, which have numbers and bugs of their own.
const x32Bit = 0x40000000

// Offsets in struct seccomp_data.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
)

var audit = map[string]uint32{
	"amd64": unix.AUDIT_ARCH_X86_64,
	"arm64": unix.AUDIT_ARCH_AARCH64,
}

// never lists what a function is refused although moby's profile has it for some containers, or may in a
// later version.
var never = []string{
	// Look into or steer other processes.
	"ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp",
	// The kernel's keyrings are not divided by namespaces.
	"add_key", "request_key", "keyctl",
	// Large or young parts of the kernel with a history of privilege escalation that no function runs on.
	"bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register",
	// Relics: 16-bit segments, non-linear mappings, gifting pages to pipes.
	"modify_ldt", "remap_file_pages", "vmsplice",
	// Of use with capabilities only.
	"fanotify_mark", "fanotify_init",
}

// families are the sockets a function may make. The rest loads kernel modules that are seldom looked at.
var families = []uint64{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}

// Filter gives the filter for "amd64" or "arm64", ready for seccomp(2).
func Filter(arch string) ([]bpf.RawInstruction, error) {
	rules, err := profile(arch)
	if err != nil {
		return nil, err
	}
	code, err := compile(arch, rules)
	if err != nil {
		return nil, err
	}
	raw, err := bpf.Assemble(code)
	if err != nil {
		return nil, fmt.Errorf("seccomp: %w", err)
	}
	if len(raw) > maxInstructions {
		return nil, fmt.Errorf("seccomp: %d instructions are over the kernel's limit of %d", len(raw), maxInstructions)
	}
	return raw, nil
}

// rule is what happens to one call: the value of the first branch whose conditions hold, or a refusal.
type rule []branch

type branch struct {
	conditions []specs.LinuxSeccompArg // all of them
	value      uint32
}

// profile gives the rules by call number.
func profile(arch string) (map[uint32]rule, error) {
	number, ok := numbers[arch]
	if !ok {
		return nil, fmt.Errorf("seccomp: no table of system calls for %s", arch)
	}
	p := seccomp.DefaultProfile()
	if p.DefaultAction != specs.ActErrno {
		return nil, fmt.Errorf("seccomp: the profile's default is %s, not a refusal", p.DefaultAction)
	}
	rules := make(map[uint32]rule)
	for _, call := range p.Syscalls {
		if !applies(call, arch) {
			continue
		}
		value, err := valueOf(call)
		if err != nil {
			return nil, err
		}
		for _, name := range call.Names {
			if nr, ok := number[name]; ok { // the profile names the calls of all architectures
				rules[nr] = append(rules[nr], branch{call.Args, value})
			}
		}
	}
	for _, name := range never {
		if nr, ok := number[name]; ok {
			delete(rules, nr)
		}
	}
	socket := number["socket"]
	rules[socket] = nil
	for _, family := range families {
		equal := specs.LinuxSeccompArg{Index: 0, Value: family, Op: specs.OpEqualTo}
		rules[socket] = append(rules[socket], branch{[]specs.LinuxSeccompArg{equal}, retAllow})
	}
	return rules, nil
}

// applies tells whether a rule of the profile is meant for a process without capabilities on arch. The
// kernel is one that sandboxes run on (5.12 or newer), so every minimum in the profile is met.
func applies(call *seccomp.Syscall, arch string) bool {
	if in := call.Includes; in != nil {
		if len(in.Caps) > 0 || len(in.Arches) > 0 && !slices.Contains(in.Arches, arch) {
			return false
		}
	}
	if ex := call.Excludes; ex != nil && slices.Contains(ex.Arches, arch) {
		return false
	}
	return true
}

func valueOf(call *seccomp.Syscall) (uint32, error) {
	switch {
	case call.Action == specs.ActAllow:
		return retAllow, nil
	case call.Action == specs.ActErrno && call.ErrnoRet != nil:
		return retErrno | uint32(*call.ErrnoRet)&unix.SECCOMP_RET_DATA, nil
	case call.Action == specs.ActErrno:
		return refused, nil
	}
	return 0, fmt.Errorf("seccomp: the profile has the unknown action %s for %v", call.Action, call.Names)
}

func compile(arch string, rules map[uint32]rule) ([]bpf.Instruction, error) {
	code := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: audit[arch], SkipTrue: 1},
		bpf.RetConstant{Val: retKill},
		bpf.LoadAbsolute{Off: offNumber, Size: 4},
	}
	if arch == "amd64" {
		code = append(code,
			bpf.JumpIf{Cond: bpf.JumpLessThan, Val: x32Bit, SkipTrue: 1},
			bpf.RetConstant{Val: refused})
	}
	spans, err := spansOf(rules)
	if err != nil {
		return nil, err
	}
	return append(code, search(spans)...), nil
}

// span is a run of call numbers, from first to before the next span, that share what happens to them.
type span struct {
	first uint32
	code  []bpf.Instruction
}

func spansOf(rules map[uint32]rule) ([]span, error) {
	deny := []bpf.Instruction{bpf.RetConstant{Val: refused}}
	spans := []span{{0, deny}}
	add := func(first uint32, code []bpf.Instruction) {
		last := &spans[len(spans)-1]
		switch {
		case slices.Equal(last.code, code):
		case last.first == first:
			last.code = code
		default:
			spans = append(spans, span{first, code})
		}
	}
	sorted := make([]uint32, 0, len(rules))
	for nr := range rules {
		sorted = append(sorted, nr)
	}
	slices.Sort(sorted)
	next := uint32(0)
	for _, nr := range sorted {
		if nr != next {
			add(next, deny)
		}
		code, err := decide(rules[nr])
		if err != nil {
			return nil, err
		}
		add(nr, code)
		next = nr + 1
	}
	add(next, deny)
	return spans, nil
}

// search finds the span of the number in the accumulator.
func search(spans []span) []bpf.Instruction {
	if len(spans) == 1 {
		return spans[0].code
	}
	mid := len(spans) / 2
	low, high := search(spans[:mid]), search(spans[mid:])
	pivot := spans[mid].first
	var code []bpf.Instruction
	if len(low) <= 255 {
		code = append(code, bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: pivot, SkipTrue: uint8(len(low))})
	} else { // a conditional jump is too short
		code = append(code,
			bpf.JumpIf{Cond: bpf.JumpLessThan, Val: pivot, SkipTrue: 1},
			bpf.Jump{Skip: uint32(len(low))})
	}
	return append(append(code, low...), high...)
}

func decide(r rule) ([]bpf.Instruction, error) {
	var code []bpf.Instruction
	for _, b := range r {
		if len(b.conditions) == 0 { // holds always, so it comes before all that depends on arguments
			return []bpf.Instruction{bpf.RetConstant{Val: b.value}}, nil
		}
		tail := []bpf.Instruction{bpf.RetConstant{Val: b.value}}
		for _, c := range slices.Backward(b.conditions) {
			test, err := compare(c, len(tail))
			if err != nil {
				return nil, err
			}
			tail = append(test, tail...)
		}
		code = append(code, tail...)
	}
	return append(code, bpf.RetConstant{Val: refused}), nil
}

var errTooFar = errors.New("seccomp: a rule has too many conditions")

// compare goes on behind itself if the condition holds and skips n instructions more if it does not. An
// argument has 64 bits and the machine 32, so it takes the high word first, then the low one.
func compare(c specs.LinuxSeccompArg, n int) ([]bpf.Instruction, error) {
	if n+5 > 255 {
		return nil, errTooFar
	}
	no := uint8(n)
	high := bpf.LoadAbsolute{Off: offArgs + 8*uint32(c.Index) + 4, Size: 4}
	low := bpf.LoadAbsolute{Off: offArgs + 8*uint32(c.Index), Size: 4}
	vHigh, vLow := uint32(c.Value>>32), uint32(c.Value)
	// ordered compares numbers: above says by which jump a high word decides for yes, last the low word.
	ordered := func(above, last bpf.JumpTest) []bpf.Instruction {
		return []bpf.Instruction{
			high,
			bpf.JumpIf{Cond: above, Val: vHigh, SkipTrue: 3},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: vHigh, SkipFalse: 2 + no},
			low,
			bpf.JumpIf{Cond: last, Val: vLow, SkipFalse: no},
		}
	}
	switch c.Op {
	case specs.OpEqualTo:
		return []bpf.Instruction{
			high,
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: vHigh, SkipFalse: 2 + no},
			low,
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: vLow, SkipFalse: no},
		}, nil
	case specs.OpNotEqual:
		return []bpf.Instruction{
			high,
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: vHigh, SkipFalse: 2},
			low,
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: vLow, SkipTrue: no},
		}, nil
	case specs.OpGreaterThan:
		return ordered(bpf.JumpGreaterThan, bpf.JumpGreaterThan), nil
	case specs.OpGreaterEqual:
		return ordered(bpf.JumpGreaterThan, bpf.JumpGreaterOrEqual), nil
	case specs.OpLessThan:
		return ordered(bpf.JumpLessThan, bpf.JumpLessThan), nil
	case specs.OpLessEqual:
		return ordered(bpf.JumpLessThan, bpf.JumpLessOrEqual), nil
	case specs.OpMaskedEqual: // Value is the mask
		return []bpf.Instruction{
			high,
			bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: vHigh},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(c.ValueTwo >> 32), SkipFalse: 3 + no},
			low,
			bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: vLow},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(c.ValueTwo), SkipFalse: no},
		}, nil
	}
	return nil, fmt.Errorf("seccomp: unknown comparison %s", c.Op)
}
