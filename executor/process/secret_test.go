package process

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"lambent"
	"lambent/executor"
	"lambent/executor/executortest"
)

// memoryOf reads all that a process has in its memory, and what of /proc tells of it.
func memoryOf(t *testing.T, pid int) []byte {
	t.Helper()
	var out bytes.Buffer
	for _, file := range []string{"maps", "environ", "cmdline", "status"} {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
		if err != nil {
			t.Fatal(err)
		}
		out.Write(raw)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(maps)) {
		fields := strings.Fields(line)
		from, to, _ := strings.Cut(fields[0], "-")
		start, err := strconv.ParseUint(from, 16, 63)
		if err != nil {
			continue // vsyscall
		}
		end, err := strconv.ParseUint(to, 16, 63)
		if err != nil || fields[1][0] != 'r' || end-start > 64<<20 { // what Go reserves and does not use
			continue
		}
		// What cannot be read, such as vvar, is no memory of the process.
		_, _ = io.Copy(&out, io.NewSectionReader(mem, int64(start), int64(end-start)))
	}
	return out.Bytes()
}

// Secrets are where the function is, and nowhere else: not in the memory of lambent-init, its environment, its
// descriptors or its arguments, nor in the instance's folder.
func TestSecretsStayInside(t *testing.T) {
	dir, code := t.TempDir(), t.TempDir()
	executortest.BuildFixture(t, code)
	e, err := New(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}()
	if e.away != nil {
		t.Fatal(e.away)
	}
	forVariable, forFile := "variable-"+strconv.Itoa(os.Getpid())+"-7f3a90", "file-"+strconv.Itoa(os.Getpid())+"-b81c55"
	s, err := lambent.Settings{Runtime: "go", Handler: "fixture", Secrets: map[string]string{"TOKEN": "a", "/run/secrets/b": "b"}}.Complete()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	started, err := e.Start(ctx, executor.Spec{
		ID: lambent.NewID(), CodeDir: code, Log: func(lambent.LogLine) {},
		Revision: lambent.NewRevision("default", "f", s, "sha256:x", "root", time.Now()),
		Secrets:  map[string]string{"TOKEN": forVariable, "/run/secrets/b": forFile},
	})
	if err != nil {
		t.Fatal(err)
	}
	in := started.(*instance)
	init := in.pid
	raw, err := os.ReadFile(in.group.JoinFiles()[0])
	if err != nil {
		t.Fatal(err)
	}
	function, err := strconv.Atoi(strings.Fields(string(raw))[0])
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(memoryOf(t, function), []byte(forVariable)) {
		t.Fatal("the function's own memory lacks the secret: the search proves nothing")
	}
	if raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/run/secrets/b", function)); err != nil || string(raw) != forFile {
		t.Fatalf("the file holds %q, %v", raw, err)
	}
	memory := memoryOf(t, init)
	if !bytes.Contains(memory, []byte("LAMBENT_REVISION="+in.revision.ID)) {
		t.Fatal("lambent-init's memory lacks what it was told: the search proves nothing")
	}
	for _, value := range []string{forVariable, forFile} {
		if at := bytes.Index(memory, []byte(value)); at >= 0 {
			t.Errorf("lambent-init still has %q in its memory, in %q", value, memory[max(0, at-40):at+60])
		}
	}
	if cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", function)); err != nil || bytes.Contains(cmdline, []byte(forVariable)) {
		t.Errorf("arguments %q, %v", cmdline, err)
	}
	for _, pid := range []int{init, function} {
		links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		if err != nil || len(links) == 0 {
			t.Fatalf("no descriptors: %v", err)
		}
		for _, link := range links {
			if target, err := os.Readlink(link); err == nil && strings.Contains(target, "memfd:spec") {
				t.Errorf("process %d keeps %s", pid, target)
			}
		}
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", function))
	if err != nil || !strings.Contains(strings.Join(strings.Fields(string(limits)), " "), "Max core file size 1 1 bytes") {
		t.Errorf("a crash may leave a core: %s, %v", limits, err)
	}
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		for _, value := range []string{forVariable, forFile} {
			if bytes.Contains(raw, []byte(value)) {
				t.Errorf("%s holds %q", path, value)
			}
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
