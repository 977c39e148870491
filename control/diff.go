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
		Settings: diffSettings(from.Settings, to.Settings), Env: diffEnv(from.Settings.Env, to.Settings.Env), Dependencies: []lambent.DependencyChange{}, Files: []lambent.FileChange{}}
	if from.Code != to.Code {
		err = s.diffCode(ctx, out, from, to)
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

// diffCode fills in how the code of two revisions differs.
func (s *server) diffCode(ctx context.Context, out *lambent.Diff, from, to *lambent.Revision) error {
	a, err := s.contents(ctx, from)
	if err != nil {
		return err
	}
	b, err := s.contents(ctx, to)
	if err != nil {
		return err
	}
	changes(a.files, b.files, func(path string, from, to *lambent.CodeFile) {
		out.Files = append(out.Files, lambent.FileChange{Path: path, From: from, To: to})
	})
	changes(a.dependencies, b.dependencies, func(name string, from, to *string) {
		change := lambent.DependencyChange{Name: name}
		if from != nil {
			change.From = *from
		}
		if to != nil {
			change.To = *to
		}
		out.Dependencies = append(out.Dependencies, change)
	})
	return nil
}

// contents are the files and links of a bundle by path, and the versions of the packages in it by name.
type contents struct {
	files        map[string]lambent.CodeFile
	dependencies map[string]string
}

// contents reads the code of a revision, and what its source says of packages that were compiled into it.
func (s *server) contents(ctx context.Context, rev *lambent.Revision) (c contents, err error) {
	found := packages{}
	c.files = map[string]lambent.CodeFile{}
	err = s.eachFile(ctx, rev.Code, func(header *tar.Header, in io.Reader) error {
		if header.Typeflag == tar.TypeSymlink {
			c.files[header.Name] = lambent.CodeFile{Link: header.Linkname}
			return nil
		}
		sum := sha256.New()
		content := io.TeeReader(in, sum)
		if err := found.look(header, content); err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, content); err != nil {
			return err
		}
		c.files[header.Name] = lambent.CodeFile{Size: header.Size, Executable: header.Mode&0o111 != 0,
			Digest: "sha256:" + hex.EncodeToString(sum.Sum(nil))}
		return nil
	})
	if err == nil && rev.Settings.Runtime == "go" && s.Code.Has(rev.Source) {
		err = s.eachFile(ctx, rev.Source, found.look)
	}
	c.dependencies = found.versions()
	return c, err
}

// eachFile calls f for the files and links of a bundle.
func (s *server) eachFile(ctx context.Context, digest string, f func(*tar.Header, io.Reader) error) error {
	bundle, err := s.Code.Open(digest)
	if err != nil {
		return err
	}
	defer bundle.Close()
	for in := tar.NewReader(bundle); ; {
		header, err := in.Next()
		if err == io.EOF {
			return nil
		}
		err = cmp.Or(err, ctx.Err())
		if err == nil && (header.Typeflag == tar.TypeReg || header.Typeflag == tar.TypeSymlink) {
			err = f(header, in)
		}
		if err != nil {
			return unreadable(digest, err)
		}
	}
}

func unreadable(digest string, cause error) error {
	return lambent.Errorf(lambent.CodeCodeUnavailable, "the code %s cannot be read: %w", digest, cause).
		WithHint("deploy the function again")
}
