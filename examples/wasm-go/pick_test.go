package main

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestPick(t *testing.T) {
	const text = `{"items": [{"name": "Ada", "id": 12345678901234567890}, null], "": {"x.y": 1}}`
	for path, want := range map[string]string{
		"items.0.name": `"Ada"`,
		"items.0.id":   `12345678901234567890`,
		"items.1":      `null`,
		"":             `{"":{"x.y":1},"items":[{"id":12345678901234567890,"name":"Ada"},null]}`,
	} {
		value, err := pick(strings.NewReader(text), path)
		got, _ := json.Marshal(value)
		if err != nil || string(got) != want {
			t.Errorf("%s: %s, %v", path, got, err)
		}
	}
	for _, path := range []string{"items.2", "items.-1", "items.x", "none", "items.0.name.x", "items."} {
		if _, err := pick(strings.NewReader(text), path); !errors.Is(err, errAbsent) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := pick(strings.NewReader("{"), "x"); err == nil || errors.Is(err, errAbsent) {
		t.Errorf("no JSON: %v", err)
	}
}
