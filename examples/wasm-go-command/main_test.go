package main

import (
	"bufio"
	"strings"
	"testing"
)

func TestConvert(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"a,b\n1,\"x \"\"y\"\"\"\n2,\n", `[ {"a":"1","b":"x \"y\""}, {"a":"2","b":""} ] `},
		{"a\n", "[ ] "},
		{"größe\n\xff\n", "[ {\"größe\":\"\\ufffd\"} ] "},
	} {
		var out strings.Builder
		lines, err := open(strings.NewReader(tt.in), ',')
		if err != nil {
			t.Fatal(err)
		}
		w := bufio.NewWriter(&out)
		_, err = convert(w, lines)
		w.Flush()
		if got := strings.ReplaceAll(out.String(), "\n", " "); err != nil || got != tt.want {
			t.Errorf("%q: %q, %v", tt.in, got, err)
		}
	}
	if _, err := open(strings.NewReader(""), ','); err == nil {
		t.Error("nothing is a table")
	}
	lines, err := open(strings.NewReader("a,b\n1\n"), ',')
	if err != nil {
		t.Fatal(err)
	}
	if _, err := convert(bufio.NewWriter(&strings.Builder{}), lines); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("a short line: %v", err)
	}
}
