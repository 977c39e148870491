package cli

import (
	"encoding"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"lambent"
	"lambent/internal/nearest"
)

const manifestName = "lambent.yaml"

// manifest is what lambent.yaml may say: a name, and the settings under their names in JSON.
type manifest struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	lambent.Settings
}

// readManifest reads lambent.yaml in dir; without one the manifest is empty. Errors tell line and column.
func readManifest(dir string) (*manifest, error) {
	m := &manifest{}
	path := filepath.Join(dir, manifestName)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return nil, lambent.Errorf(lambent.CodeInvalidRequest, "%w", err)
	}
	file, err := parser.ParseBytes(raw, 0)
	var broken yaml.Error
	switch {
	case errors.As(err, &broken):
		return nil, positioned(path, broken.GetToken().Position.Line, broken.GetToken().Position.Column, errors.New(broken.GetMessage()))
	case err != nil:
		return nil, lambent.Errorf(lambent.CodeInvalidRequest, "%s: %w", path, err)
	case len(file.Docs) > 1:
		return nil, lambent.Errorf(lambent.CodeInvalidRequest, "%s: there is more than one document in it", path)
	case len(file.Docs) == 0 || file.Docs[0].Body == nil:
		return m, nil
	}
	return m, m.read(path, nil, file.Docs[0].Body)
}

// read takes in node, which stands at the field.
func (m *manifest) read(path string, field []string, node ast.Node) error {
	at := node.GetToken().Position
	var err error
	switch n := node.(type) {
	case ast.MapNode:
		for pairs := n.MapRange(); pairs.Next(); {
			key := pairs.Key().GetToken()
			inner := append(field[:len(field):len(field)], key.Value)
			if err := check(reflect.ValueOf(m).Elem(), inner); err != nil {
				return positioned(path, key.Position.Line, key.Position.Column, err)
			}
			if err := m.read(path, inner, pairs.Value()); err != nil {
				return err
			}
		}
		return nil
	case *ast.StringNode:
		err = m.set(field, n.Value)
	case *ast.LiteralNode:
		err = m.set(field, n.Value.Value)
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		err = m.set(field, node.GetToken().Value)
	case *ast.SequenceNode:
		if v, ferr := find(reflect.ValueOf(m).Elem(), field); ferr != nil || v.Kind() != reflect.Slice {
			err = fmt.Errorf("%s: write a plain value here", strings.Join(field, "."))
			break
		}
		for i, item := range n.Values {
			inner := append(field[:len(field)-1:len(field)-1], fmt.Sprintf("%s[%d]", field[len(field)-1], i))
			if _, plain := item.(ast.ScalarNode); !plain {
				at := item.GetToken().Position
				return positioned(path, at.Line, at.Column, fmt.Errorf("%s: write a plain value here", strings.Join(inner, ".")))
			}
			if err = m.set(field, item.GetToken().Value); err != nil {
				break
			}
		}
	case *ast.CommentGroupNode:
	default:
		err = fmt.Errorf("%s: write a plain value here", strings.Join(field, "."))
	}
	if err != nil {
		return positioned(path, at.Line, at.Column, err)
	}
	return nil
}

func positioned(path string, line, column int, err error) error {
	e := lambent.Errorf(lambent.CodeInvalidRequest, "%s:%d:%d: %w", path, line, column, err)
	var known *lambent.Error
	if errors.As(err, &known) {
		e.Message, e.Hint = fmt.Sprintf("%s:%d:%d: %s", path, line, column, known.Message), known.Hint
	}
	return e
}

// set gives the field, such as timeouts.total, the value that text stands for; a list gets it as one more item.
func (m *manifest) set(field []string, text string) error {
	if len(field) == 0 {
		return errors.New("fields and their values are wanted here")
	}
	v, err := find(reflect.ValueOf(m).Elem(), field)
	if err != nil {
		return err
	}
	where := strings.Join(field, ".")
	if v.Kind() == reflect.Map {
		if len(field) != 2 {
			return fmt.Errorf("%s: names and values are wanted, such as %s.NAME", where, where)
		}
		if v.IsNil() {
			v.Set(reflect.MakeMap(v.Type()))
		}
		v.SetMapIndex(reflect.ValueOf(field[1]), reflect.ValueOf(text))
		return nil
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		if err := u.UnmarshalText([]byte(text)); err != nil {
			return fmt.Errorf("%s: %w", where, err)
		}
		return nil
	}
	switch v.Kind() {
	case reflect.Slice:
		v.Set(reflect.Append(v, reflect.ValueOf(text)))
	case reflect.String:
		v.SetString(text)
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fmt.Errorf("%s: %q is not a whole number", where, text)
		}
		v.SetInt(n)
	default:
		return fmt.Errorf("%s: name one of its fields: %s", where, strings.Join(names(v.Type()), ", "))
	}
	return nil
}

// check tells whether there is such a field.
func check(v reflect.Value, field []string) error {
	_, err := find(v, field)
	return err
}

// find gives the field of v, or the map that it would stand in.
func find(v reflect.Value, field []string) (reflect.Value, error) {
	for i, name := range field {
		if v.Kind() == reflect.Map && i == len(field)-1 {
			return v, nil
		}
		inner, ok := member(v, name)
		if !ok {
			e := lambent.Errorf(lambent.CodeInvalidRequest, "there is no field %s", strings.Join(field[:i+1], "."))
			if v.Kind() != reflect.Struct {
				return v, e.WithHint("%s is a plain value", strings.Join(field[:i], "."))
			}
			allowed := names(v.Type())
			if near := nearest.Of(name, allowed); near != "" {
				return v, e.WithHint("did you mean %s?", near)
			}
			return v, e.WithHint("use %s", strings.Join(allowed, ", "))
		}
		v = inner
	}
	return v, nil
}

func member(v reflect.Value, name string) (reflect.Value, bool) {
	if v.Kind() == reflect.Struct {
		for _, f := range reflect.VisibleFields(v.Type()) {
			if jsonName(f) == name && !f.Anonymous {
				return v.FieldByIndex(f.Index), true
			}
		}
	}
	return reflect.Value{}, false
}

func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

func names(t reflect.Type) (all []string) {
	for _, f := range reflect.VisibleFields(t) {
		if !f.Anonymous {
			all = append(all, jsonName(f))
		}
	}
	return all
}

// detectRuntime tells the runtime of the code in dir by its files.
func detectRuntime(dir string) (string, error) {
	found := map[string]string{}
	for _, kind := range []struct{ pattern, runtime string }{
		{"*.py", "python"}, {"go.mod", "go"}, {"main.go", "go"},
		{"index.mjs", "nodejs"}, {"index.js", "nodejs"}, {"index.cjs", "nodejs"}, {"package.json", "nodejs"},
	} {
		files, err := filepath.Glob(filepath.Join(escapeGlob(dir), kind.pattern))
		if err != nil {
			return "", err
		}
		if len(files) > 0 {
			found[kind.runtime] = filepath.Base(files[0])
		}
	}
	runtimes := slices.Sorted(maps.Keys(found))
	switch len(runtimes) {
	case 0:
		if _, err := os.Stat(filepath.Join(dir, "index.html")); err == nil {
			return "static", nil
		}
		return "", lambent.Errorf(lambent.CodeInvalidRequest, "%s has neither Python nor Node.js nor Go files, nor an index.html", dir).
			WithHint("say what runs it with --runtime, or begin with: lambent init DIR")
	case 1:
		return runtimes[0], nil
	}
	return "", lambent.Errorf(lambent.CodeInvalidRequest, "%s has both %s and %s", dir, found[runtimes[0]], found[runtimes[1]]).
		WithHint("say which runtime it is: --runtime %s, or runtime in %s", strings.Join(runtimes, ", --runtime "), manifestName)
}

func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
