package cli

import (
	"encoding"
	"errors"
	"fmt"
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

// document is one document of a YAML file.
type document struct {
	path string
	body ast.Node
}

// parseYAML gives the documents in raw, which is of the file at path, but for empty ones.
func parseYAML(path string, raw []byte) (docs []document, err error) {
	file, err := parser.ParseBytes(raw, 0)
	var broken yaml.Error
	switch {
	case errors.As(err, &broken):
		return nil, positioned(path, broken.GetToken().Position.Line, broken.GetToken().Position.Column, errors.New(broken.GetMessage()))
	case err != nil:
		return nil, lambent.Errorf(lambent.CodeInvalidRequest, "%s: %w", path, err)
	}
	for _, doc := range file.Docs {
		if _, comment := doc.Body.(*ast.CommentGroupNode); doc.Body != nil && !comment {
			docs = append(docs, document{path, doc.Body})
		}
	}
	return docs, nil
}

func positioned(path string, line, column int, err error) error {
	e := lambent.Errorf(lambent.CodeInvalidRequest, "%s:%d:%d: %w", path, line, column, err)
	var known *lambent.Error
	if errors.As(err, &known) {
		e.Message, e.Hint = fmt.Sprintf("%s:%d:%d: %s", path, line, column, known.Message), known.Hint
	}
	return e
}

// at gives err with the place of node.
func (d document) at(node ast.Node, err error) error {
	position := node.GetToken().Position
	return positioned(d.path, position.Line, position.Column, err)
}

// field gives the plain value of a field of the document, and where it stands; "" and the document when there is none.
func (d document) field(name string) (string, ast.Node) {
	if fields, ok := d.body.(ast.MapNode); ok {
		for pairs := fields.MapRange(); pairs.Next(); {
			if pairs.Key().GetToken().Value == name {
				return pairs.Value().GetToken().Value, pairs.Value()
			}
		}
	}
	return "", d.body
}

// read takes the document into v, a pointer to a struct whose fields have the names that they have in JSON. There must
// be no others, and a list replaces what is there. Errors tell line and column.
func (d document) read(v any) error { return d.into(reflect.ValueOf(v).Elem(), "", d.body) }

// into takes node, which stands at where, into v.
func (d document) into(v reflect.Value, where string, node ast.Node) error {
	text := ""
	switch n := node.(type) {
	case ast.MapNode:
		return d.fields(v, where, n)
	case *ast.SequenceNode:
		if v.Kind() != reflect.Slice {
			return d.at(node, plainWanted(where))
		}
		v.SetZero()
		for i, item := range n.Values {
			v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
			if err := d.into(v.Index(i), fmt.Sprintf("%s[%d]", where, i), item); err != nil {
				return err
			}
		}
		return nil
	case *ast.StringNode:
		text = n.Value
	case *ast.LiteralNode:
		text = n.Value.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		text = node.GetToken().Value
	default:
		return d.at(node, plainWanted(where))
	}
	if err := setPlain(v, where, text); err != nil {
		return d.at(node, err)
	}
	return nil
}

func plainWanted(where string) error { return fmt.Errorf("%s: write a plain value here", where) }

func (d document) fields(v reflect.Value, where string, node ast.MapNode) error {
	for pairs := node.MapRange(); pairs.Next(); {
		key := pairs.Key()
		name := key.GetToken().Value
		inner := strings.TrimPrefix(where+"."+name, ".")
		if v.Kind() == reflect.Map {
			value := reflect.New(v.Type().Elem()).Elem()
			if err := d.into(value, inner, pairs.Value()); err != nil {
				return err
			}
			setEntry(v, name, value.String())
			continue
		}
		field, ok := member(v, name)
		if !ok {
			return d.at(key, noField(v, where, name))
		}
		if err := d.into(field, inner, pairs.Value()); err != nil {
			return err
		}
	}
	return nil
}

// setEntry gives a map of texts one.
func setEntry(v reflect.Value, name, text string) {
	if v.IsNil() {
		v.Set(reflect.MakeMap(v.Type()))
	}
	v.SetMapIndex(reflect.ValueOf(name), reflect.ValueOf(text))
}

// setPlain gives v, which is at where, the value that text stands for.
func setPlain(v reflect.Value, where, text string) error {
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		if err := u.UnmarshalText([]byte(text)); err != nil {
			return fmt.Errorf("%s: %w", where, err)
		}
		return nil
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fmt.Errorf("%s: %q is not a whole number", where, text)
		}
		v.SetInt(n)
	case reflect.Bool:
		if text != "true" && text != "false" {
			return fmt.Errorf("%s: %q is neither true nor false", where, text)
		}
		v.SetBool(text == "true")
	case reflect.Slice:
		return fmt.Errorf("%s: a list is wanted, such as [%s]", where, text)
	case reflect.Map:
		return fmt.Errorf("%s: names and values are wanted, such as %s.NAME", where, where)
	default:
		if where == "" {
			return errors.New("fields and their values are wanted here")
		}
		return fmt.Errorf("%s: name one of its fields: %s", where, strings.Join(names(v.Type()), ", "))
	}
	return nil
}

// noField is the error of a name that is no field of v, which is at where.
func noField(v reflect.Value, where, name string) error {
	e := lambent.Errorf(lambent.CodeInvalidRequest, "there is no field %s", strings.TrimPrefix(where+"."+name, "."))
	if v.Kind() != reflect.Struct {
		return e.WithHint("%s is a plain value", where)
	}
	allowed := names(v.Type())
	if near := nearest.Of(name, allowed); near != "" {
		return e.WithHint("did you mean %s?", near)
	}
	return e.WithHint("use %s", strings.Join(allowed, ", "))
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
		if name := jsonName(f); !f.Anonymous && name != "-" && !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	return all
}
