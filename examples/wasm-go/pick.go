package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

var errAbsent = errors.New("there is no such value")

// pick gives the value at a path such as items.0.name in a JSON text; the whole for no path.
func pick(text io.Reader, path string) (value any, err error) {
	in := json.NewDecoder(text)
	in.UseNumber() // so that long ones stay as they are
	if err := in.Decode(&value); err != nil {
		return nil, fmt.Errorf("the body is no JSON: %w", err)
	}
	if path == "" {
		return value, nil
	}
	for name := range strings.SplitSeq(path, ".") {
		ok := false
		switch at := value.(type) {
		case map[string]any:
			value, ok = at[name]
		case []any:
			var i int
			if i, err = strconv.Atoi(name); err == nil && i >= 0 && i < len(at) {
				value, ok = at[i], true
			}
		}
		if !ok {
			return nil, fmt.Errorf("%w: %q of the path %q", errAbsent, name, path)
		}
	}
	return value, nil
}
