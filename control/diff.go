package control

import (
	"archive/tar"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"maps"
	"reflect"
	"slices"

	"lambent"
)

type diffOutput struct{ Body *lambent.Diff }

func (s *server) diff(ctx context.Context, in *struct {
	Named
	From string `query:"from" required:"true" doc:"id of a revision, number of a published version, or an alias with one target"`
	To   string `query:"to" required:"true" doc:"the same"`
}) (*diffOutput, error) {
	f, err := s.existing(ctx, in.Named)
	if err != nil {
		return nil, err
	}
	from, err := s.resolve(ctx, f, in.From)
	if err != nil {
		return nil, at("query.from: ", err)
	}
	to, err := s.resolve(ctx, f, in.To)
	if err != nil {
		return nil, at("query.to: ", err)
	}
	out := &lambent.Diff{From: infoOf(from), To: infoOf(to),
		Settings: diffSettings(from.Settings, to.Settings), Env: diffEnv(from.Settings.Env, to.Settings.Env), Files: []lambent.FileChange{}}
	if from.Code != to.Code {
		out.Files, err = s.diffCode(ctx, from.Code, to.Code)
	}
	return &diffOutput{out}, err
}

func infoOf(r *lambent.Revision) lambent.RevisionInfo {
	return lambent.RevisionInfo{ID: r.ID, Code: r.Code, Root: r.Root, Created: r.Created}
}

// changes calls found for each key whose values differ, in order. Missing values are nil pointers.
func changes[V any](from, to map[string]V, found func(key string, from, to *V)) {
	keys := map[string]V{}
	maps.Copy(keys, from)
	maps.Copy(keys, to)
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		var a, b *V
		if v, ok := from[key]; ok {
			a = &v
		}
		if v, ok := to[key]; ok {
			b = &v
		}
		if !reflect.DeepEqual(a, b) {
			found(key, a, b)
		}
	}
}

func diffSettings(from, to lambent.Settings) []lambent.FieldChange {
	out := []lambent.FieldChange{}
	changes(fields(from), fields(to), func(field string, from, to *any) {
		change := lambent.FieldChange{Field: field}
		if from != nil {
			change.From = *from
		}
		if to != nil {
			change.To = *to
		}
		out = append(out, change)
	})
	return out
}

// fields gives the settings but for the environment by their names in JSON, those of nested ones joined by dots.
func fields(s lambent.Settings) map[string]any {
	s.Env = nil
	var tree map[string]any
	if err := json.Unmarshal(encode(s), &tree); err != nil {
		panic(err) // it was just encoded
	}
	out := map[string]any{}
	var walk func(prefix string, tree map[string]any)
	walk = func(prefix string, tree map[string]any) {
		for name, value := range tree {
			if nested, ok := value.(map[string]any); ok {
				walk(prefix+name+".", nested)
			} else {
				out[prefix+name] = value
			}
		}
	}
	walk("", tree)
	return out
}

func diffEnv(from, to map[string]string) lambent.EnvDiff {
	out := lambent.EnvDiff{Added: []string{}, Removed: []string{}, Changed: []string{}}
	changes(from, to, func(name string, from, to *string) {
		switch {
		case from == nil:
			out.Added = append(out.Added, name)
		case to == nil:
			out.Removed = append(out.Removed, name)
		default:
			out.Changed = append(out.Changed, name)
		}
	})
	return out
}

func (s *server) diffCode(ctx context.Context, from, to string) ([]lambent.FileChange, error) {
	a, err := s.files(ctx, from)
	if err != nil {
		return nil, err
	}
	b, err := s.files(ctx, to)
	if err != nil {
		return nil, err
	}
	out := []lambent.FileChange{}
	changes(a, b, func(path string, from, to *lambent.CodeFile) {
		out = append(out, lambent.FileChange{Path: path, From: from, To: to})
	})
	return out, nil
}

// files reads the bundle with that digest and gives its files and links by path.
func (s *server) files(ctx context.Context, digest string) (map[string]lambent.CodeFile, error) {
	bundle, err := s.Code.Open(digest)
	if err != nil {
		return nil, err
	}
	defer bundle.Close()
	out := map[string]lambent.CodeFile{}
	for in := tar.NewReader(bundle); ; {
		header, err := in.Next()
		if err == io.EOF {
			return out, nil
		}
		if err = cmp.Or(err, ctx.Err()); err != nil {
			return nil, unreadable(digest, err)
		}
		switch header.Typeflag {
		case tar.TypeSymlink:
			out[header.Name] = lambent.CodeFile{Link: header.Linkname}
		case tar.TypeReg:
			sum := sha256.New()
			if _, err := io.Copy(sum, in); err != nil {
				return nil, unreadable(digest, err)
			}
			out[header.Name] = lambent.CodeFile{Size: header.Size, Executable: header.Mode&0o111 != 0,
				Digest: "sha256:" + hex.EncodeToString(sum.Sum(nil))}
		}
	}
}

func unreadable(digest string, cause error) error {
	return lambent.Errorf(lambent.CodeCodeUnavailable, "the code %s cannot be read: %w", digest, cause).
		WithHint("deploy the function again")
}
