package control

import (
	"encoding/json"
	"strings"

	"lambent"
	"lambent/store"
)

// FunctionPrefix is the prefix of the keys of functions in the store: "function.NAMESPACE.NAME".
const FunctionPrefix = "function."

// AliasPrefix is the prefix of the keys of aliases in the store: "alias.NAMESPACE.NAME.ALIAS".
const AliasPrefix = "alias."

// RoutePrefix is the prefix of the keys of routes in the store: "route.NAMESPACE.NAME".
const RoutePrefix = "route."

const revisionPrefix = "revision." // "revision.NAMESPACE.NAME.ID"

func functionKey(namespace, name string) string { return FunctionPrefix + namespace + "." + name }

func routeKey(namespace, name string) string { return RoutePrefix + namespace + "." + name }

// revisionsOf is the prefix of the keys of a function's revisions.
func revisionsOf(namespace, name string) string {
	return revisionPrefix + namespace + "." + name + "."
}

// aliasesOf is the prefix of the keys of a function's aliases.
func aliasesOf(namespace, name string) string { return AliasPrefix + namespace + "." + name + "." }

// Entries gives what the store holds of a function that was deployed once, by key.
func Entries(f *lambent.Function) map[string][]byte {
	return map[string][]byte{
		functionKey(f.Namespace, f.Name):               encode(f),
		revisionsOf(f.Namespace, f.Name) + f.Latest.ID: encode(f.Latest),
	}
}

func encode(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain data always marshals
	}
	return raw
}

// DecodeFunction reads a function from its entry; its Version is the entry's revision. An entry that holds
// something else is an internal error.
func DecodeFunction(e store.Entry) (*lambent.Function, error) {
	f := &lambent.Function{}
	if err := json.Unmarshal(e.Value, f); err != nil {
		return nil, damaged(e, err)
	}
	if f.Latest == nil || functionKey(f.Namespace, f.Name) != e.Key || functionKey(f.Latest.Namespace, f.Latest.Function) != e.Key {
		return nil, damaged(e, nil)
	}
	f.Version = e.Revision
	f.Latest.Share()
	f.Namespace, f.Latest.Function = f.Latest.Namespace, f.Name
	return f, nil
}

// FunctionName gives the namespace and name in a function's key.
func FunctionName(key string) (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(key, FunctionPrefix)
	if !ok {
		return "", "", false
	}
	namespace, name, ok = strings.Cut(rest, ".")
	return namespace, name, ok
}

// DecodeAlias reads an alias from its entry; its Version is the entry's revision. An entry that holds something
// else is an internal error.
func DecodeAlias(e store.Entry) (*lambent.Alias, error) {
	a := &lambent.Alias{}
	if err := json.Unmarshal(e.Value, a); err != nil {
		return nil, damaged(e, err)
	}
	if len(a.Targets) == 0 || aliasesOf(a.Namespace, a.Function)+a.Name != e.Key {
		return nil, damaged(e, nil)
	}
	for _, t := range a.Targets {
		if t.Revision == nil || t.Weight < 1 {
			return nil, damaged(e, nil)
		}
	}
	a.Version = e.Revision
	return a, nil
}

// AliasName gives the namespace, function and name in an alias's key.
func AliasName(key string) (namespace, name, alias string, ok bool) {
	parts := strings.Split(key, ".")
	if len(parts) != 4 || parts[0]+"." != AliasPrefix {
		return "", "", "", false
	}
	return parts[1], parts[2], parts[3], true
}

// DecodeRoute reads a route from its entry; its Version is the entry's revision. An entry that holds something
// else is an internal error.
func DecodeRoute(e store.Entry) (*lambent.Route, error) {
	r := &lambent.Route{}
	if err := json.Unmarshal(e.Value, r); err != nil {
		return nil, damaged(e, err)
	}
	if routeKey(r.Namespace, r.Name) != e.Key {
		return nil, damaged(e, nil)
	}
	r.Version = e.Revision
	return r, nil
}

// RouteName gives the namespace and name in a route's key.
func RouteName(key string) (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(key, RoutePrefix)
	if !ok {
		return "", "", false
	}
	return strings.Cut(rest, ".")
}

func decodeRevision(e store.Entry) (*lambent.Revision, error) {
	r := &lambent.Revision{}
	if err := json.Unmarshal(e.Value, r); err != nil {
		return nil, damaged(e, err)
	}
	if revisionsOf(r.Namespace, r.Function)+r.ID != e.Key {
		return nil, damaged(e, nil)
	}
	return r, nil
}

func damaged(e store.Entry, cause error) error {
	err := lambent.Errorf(lambent.CodeInternal, "the stored record %s is damaged", e.Key).WithHint("write it again: deploy the function, set the alias or the route, make the key")
	err.Cause = cause
	return err
}
