package executortest

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"lambent"
)

func testMemoryLimit(t *testing.T, k *kit) {
	t.Run("in an answer", func(t *testing.T) {
		r := k.start(t, func(s *lambent.Settings) { s.Memory = 48 })
		_, body, err := r.get(t, "/alloc?mb=200&begin=1")
		want(t, err, lambent.CodeMemoryExceeded, "48 MiB")
		if body != "begun" {
			t.Errorf("the answer began with %q", body)
		}
	})
	t.Run("in a request", func(t *testing.T) {
		r := k.start(t, func(s *lambent.Settings) { s.Memory = 48 })
		_, _, err := r.get(t, "/alloc?mb=200")
		e := want(t, err, lambent.CodeMemoryExceeded, "48 MiB")
		if e.Fault != lambent.FaultLimit {
			t.Errorf("the fault is %s", e.Fault)
		}
		if !k.has(OneProcess) {
			return
		}
		<-r.Done()
		if exit := r.Exit(); !exit.OOM {
			t.Errorf("the exit is %+v", exit)
		}
		if line := r.logs.await(t, "memory limit"); line.Stream != "lambent" || !strings.Contains(line.Text, "48 MiB") {
			t.Errorf("the platform's line is %+v", line)
		}
	})
	if !k.has(OneProcess) {
		return
	}
	t.Run("at the start", func(t *testing.T) {
		_, err := k.tryStart(t, k.exec, k.code, func(s *lambent.Settings) {
			s.Memory, s.Env = 48, map[string]string{"MODE": "eat"}
		})
		want(t, err, lambent.CodeMemoryExceeded, "48 MiB")
	})
}

func testCPULimit(t *testing.T, k *kit) {
	r := k.start(t, func(s *lambent.Settings) { s.CPU = 200 })
	before, err := r.Usage()
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	r.must(t, "/burn?ms=2000")
	wall := time.Since(start)
	after, err := r.Usage()
	if err != nil {
		t.Fatal(err)
	}
	share := float64(after.CPU-before.CPU) / float64(wall)
	t.Logf("two busy threads used %.3f of a core, the limit is 0.200", share)
	if share > 0.26 {
		t.Errorf("two busy threads used %.3f of a core, the limit is 0.200", share)
	}
}

func testPidsLimit(t *testing.T, k *kit) {
	r := k.start(t, func(s *lambent.Settings) { s.Pids = 24 })
	var got struct {
		Started int
		Error   string
	}
	r.into(t, "/fork?n=500", &got)
	if got.Started == 0 || got.Started >= 24 || !strings.Contains(got.Error, "temporarily unavailable") {
		t.Errorf("the function started %d processes, then: %s", got.Started, got.Error)
	}
	if r.must(t, "/sleep?ms=0") != "slept" {
		t.Error("it does not answer any more")
	}
	r.into(t, "/fork?n=500&keep=1", &got)
	r.Stop(0) // with the children alive
}

func testNoNetwork(t *testing.T, k *kit) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	name := fmt.Sprintf("@lambent-executortest-%d", os.Getpid())
	abstract, err := net.Listen("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	defer abstract.Close()
	r := k.start(t, nil)
	var got struct {
		Interfaces                     []string
		Error, Loopback, TCP, Abstract string
	}
	r.into(t, "/net?"+url.Values{"tcp": {tcp.Addr().String()}, "abstract": {name}}.Encode(), &got)
	if !slices.Equal(got.Interfaces, []string{"lo"}) || got.Error != "ok" {
		t.Errorf("the function sees the interfaces %v, %s", got.Interfaces, got.Error)
	}
	if got.Loopback != "ok" {
		t.Errorf("its own loopback does not work: %s", got.Loopback)
	}
	if !strings.Contains(got.TCP, "refused") || !strings.Contains(got.Abstract, "refused") {
		t.Errorf("it reaches the host: tcp %s, abstract socket %s", got.TCP, got.Abstract)
	}
}

func testReadOnly(t *testing.T, k *kit) {
	r := k.start(t, nil)
	for _, path := range []string{
		"/x", "/etc/x", "/etc/passwd", "/usr/x", "/usr/bin/x", "/var/x", "/var/task/x", "/var/task/fixture", "/var/runtime/x",
		"/dev/x", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/proc/self/oom_score_adj", "/bin/x",
	} {
		var result string
		if r.into(t, "/write?path="+path, &result); result == "ok" {
			t.Errorf("the function can write %s", path)
		}
	}
	for _, path := range []string{"/tmp/x", "/dev/shm/x", "/dev/null"} {
		var result string
		if r.into(t, "/write?path="+path, &result); result != "ok" {
			t.Errorf("the function cannot write %s: %s", path, result)
		}
	}
	for path, want := range map[string][]string{
		"/":        {"bin", "dev", "etc", "lib", "lib64", "proc", "sbin", "tmp", "usr", "var"},
		"/var":     {"empty", "runtime", "task"},
		"/dev":     {"fd", "full", "null", "random", "shm", "stderr", "stdin", "stdout", "urandom", "zero"},
		"/dev/shm": {"x"},
	} {
		var names []string
		r.into(t, "/list?path="+path, &names)
		names = slices.DeleteFunc(names, func(n string) bool { return path == "/" && strings.HasPrefix(n, "lib") })
		want = slices.DeleteFunc(want, func(n string) bool { return path == "/" && strings.HasPrefix(n, "lib") })
		if !slices.Equal(names, want) {
			t.Errorf("%s holds %v, want %v", path, names, want)
		}
	}
}

func testPrivateTmp(t *testing.T, k *kit) {
	one, other := k.start(t, nil), k.start(t, nil)
	var result string
	if one.into(t, "/write?path=/tmp/mine", &result); result != "ok" {
		t.Fatal(result)
	}
	if one.into(t, "/read?path=/tmp/mine", &result); result != "ok" {
		t.Error(result)
	}
	var names []string
	if other.into(t, "/list?path=/tmp", &names); len(names) != 0 {
		t.Errorf("another instance sees %v in /tmp", names)
	}
	if _, err := os.Stat("/tmp/mine"); err == nil {
		t.Error("the host has the file too")
	}
}

func testUnprivileged(t *testing.T, k *kit) {
	type self struct {
		Status   map[string]string
		FDs      []string
		PID      int
		Session  int
		WD       string
		Hostname string
	}
	var one, other self
	r := k.start(t, nil)
	r.into(t, "/self", &one)
	k.start(t, nil).into(t, "/self", &other)
	for name, want := range map[string]string{
		"CapInh": "0000000000000000", "CapPrm": "0000000000000000", "CapEff": "0000000000000000",
		"CapBnd": "0000000000000000", "CapAmb": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2",
		"Groups": "", "SigIgn": "0000000000000000", "PPid": "1", "Umask": "0022",
	} {
		if one.Status[name] != want {
			t.Errorf("%s is %q, want %q", name, one.Status[name], want)
		}
	}
	for _, name := range []string{"Uid", "Gid"} {
		ids := strings.Fields(one.Status[name])
		if len(ids) != 4 || ids[0] == "0" || len(slices.Compact(slices.Clone(ids))) != 1 {
			t.Errorf("%s is %v", name, ids)
		}
		if one.Status[name] == other.Status[name] {
			t.Errorf("two instances have the same %s %v", name, ids)
		}
	}
	if !slices.Equal(one.FDs, []string{"0", "1", "2", "3"}) {
		t.Errorf("it was born with the descriptors %v", one.FDs)
	}
	if one.Session != one.PID || one.WD != "/var/task" || one.Hostname != "fixture" {
		t.Errorf("session %d of process %d, in %s on %s", one.Session, one.PID, one.WD, one.Hostname)
	}
	for _, file := range []string{"mem", "environ", "maps", "fd", "root", "cwd", "exe", "status", "ns/mnt", "root/etc/shadow", "task/1/mem"} {
		var result string
		if r.into(t, "/read?path=/proc/1/"+file, &result); result == "ok" {
			t.Errorf("it can read /proc/1/%s", file)
		}
	}
	var names []string
	r.into(t, "/list?path=/proc", &names)
	names = slices.DeleteFunc(names, func(n string) bool { return n[0] < '0' || n[0] > '9' })
	if !slices.Equal(names, []string{strconv.Itoa(one.PID)}) {
		t.Errorf("it sees the processes %v, and is %d", names, one.PID)
	}
	var tried map[string]string
	r.into(t, "/try", &tried)
	for name, result := range tried {
		want := "EPERM"
		switch {
		case name == "clone3":
			want = "ENOSYS"
		case name == "x32" && runtime.GOARCH != "amd64":
			want = "ENOSYS"
		case name == "set_nice":
			want = "EACCES"
		case result == "EINVAL" && (name == "setuid" || name == "setresgid"):
			continue // its user namespace has no such id
		case name == "kill" && k.Lacks[OwnUser] != "":
			continue // whether pid 1 has survived, the next request tells
		case name == "core_pattern":
			if result == "ok" {
				t.Error("it can write /proc/sys/kernel/core_pattern")
			}
			continue
		}
		if result != want {
			t.Errorf("%s gives %s, want %s", name, result, want)
		}
	}
	if r.must(t, "/sleep?ms=300") != "slept" { // a Go program needs a while to die of some signals
		t.Error("it does not answer any more")
	}
}
