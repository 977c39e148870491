package process

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lambent"
)

func TestFindCommand(t *testing.T) {
	code := t.TempDir()
	for name, f := range map[string]struct {
		text string
		mode os.FileMode
	}{
		"server":      {"#!/bin/sh\n", 0o755},
		"bin/tool":    {"#!/usr/bin/env -S sh -e\n", 0o755},
		"node":        {"#! /bin/sh -e\n", 0o755},
		"locked":      {"#!/bin/sh\n", 0o644},
		"text":        {"echo hello\n", 0o755},
		"empty":       {"", 0o755},
		"dos":         {"#!/bin/sh\r\n", 0o755},
		"nobody":      {"#!\n", 0o755},
		"strange":     {"#!/usr/bin/no-such-shell\n", 0o755},
		"relative":    {"#!sh\n", 0o755},
		"outside":     {"#!/etc/hostname\n", 0o755},
		"env-missing": {"#!/usr/bin/env no-such-language\n", 0o755},
		"by-own":      {"#!/var/task/server\n", 0o755},
		"by-lost":     {"#!/var/task/lost\n", 0o755},
		"foreign":     {"\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9) + "\x02\x00\x08\x00", 0o755}, // MIPS
	} {
		path := filepath.Join(code, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(f.text), f.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, f.mode); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"escape": "/etc/passwd", "alias": "server"} {
		if err := os.Symlink(target, filepath.Join(code, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ name, inside, wrong string }{
		{"./server", "/var/task/server", ""},
		{"server", "/var/task/server", ""},
		{"/var/task/server", "/var/task/server", ""},
		{"bin/tool", "/var/task/bin/tool", ""},
		{"./alias", "/var/task/alias", ""},
		{"node", "/var/task/node", ""},
		{"./by-own", "/var/task/by-own", ""},
		{"sh", "/usr/bin/sh", ""},
		{"awk", "/usr/bin/awk", ""},
		{"/bin/sh", "/bin/sh", ""},
		{"bin", "", `no program "bin"`},
		{"./bin", "", "no regular file"},
		{"tool", "", "neither in the bundle nor in"},
		{"./lost", "", `no file "lost"`},
		{"./locked", "", "not executable"},
		{"./text", "", "neither a program nor a script"},
		{"./empty", "", "neither a program nor a script"},
		{"./dos", "", "CR LF"},
		{"./nobody", "", "names no interpreter"},
		{"./strange", "", "no-such-shell"},
		{"./relative", "", "no absolute path"},
		{"./outside", "", "/etc/hostname"},
		{"./env-missing", "", "no-such-language"},
		{"./by-lost", "", "/var/task/lost"},
		{"./foreign", "", "another kind of machine"},
		{"./escape", "", "cannot be executed"},
		{"../../etc/passwd", "", "cannot be executed"},
		{"/etc/passwd", "", "a sandbox does not see"},
		{"/usr/bin/no-such-program", "", "no such file"},
		{"/var/task/../../etc/passwd", "", "a sandbox does not see"},
	} {
		argv, err := findCommand(code, []string{c.name, "-x"})
		switch {
		case c.wrong == "" && (err != nil || !slices.Equal(argv, []string{c.inside, "-x"})):
			t.Errorf("%s: %q, %v", c.name, argv, err)
		case c.wrong != "" && (!lambent.HasCode(err, lambent.CodeStartFailed) || !strings.Contains(err.Error(), c.wrong)):
			t.Errorf("%s: %q, %v, want %q", c.name, argv, err, c.wrong)
		}
	}
	if _, err := findCommand(code+"/gone", []string{"sh"}); !lambent.HasCode(err, lambent.CodeCodeUnavailable) {
		t.Errorf("without a bundle: %v", err)
	}
}
