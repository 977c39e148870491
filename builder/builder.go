// Package builder makes code of source: it fetches the dependencies that a lock file names and runs the
// compiler where there is one, in the sandbox that functions run in.
//
// Invariants, proved in build_test.go and the tests of the leaves:
//   - A build sees the source, read-only, and layers of its own namespace; nothing of the host, of another
//     namespace, no secret and no key. It can connect to what the operator lets builds connect to.
//   - A build writes to its own memory only. What comes of it leaves through a pipe, as an archive that is
//     checked like one that a stranger has uploaded.
//   - A step of a Builder sees no more of the source than its key covers, so that a layer fits whoever finds it.
//   - The same source gives the same code, whether or not its layers are there.
//   - A build that fails has changed nothing.
package builder

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"

	"lambent"
)

// Builder knows how to build what one kind of runtime runs.
type Builder interface {
	// Plan tells what there is to do to a source: nil for nothing. Errors are *lambent.Error, such as
	// build_failed for dependencies that no lock file pins.
	Plan(src Source) (*Plan, error)
	// Findings says what it found of the tools that it needs, for `lambent doctor`.
	Findings() []lambent.Finding
}

// Source is what there is to build. Its files are hostile.
type Source struct {
	FS      fs.FS
	Digest  string
	Runtime string // "python3.11"
	Handler string // complete and valid
}

// Plan is how to make code of a source: the files of the source, the output of Layer if Ship says so, the
// output of Build.
type Plan struct {
	Layer *Step // makes the dependencies; nil for none
	Ship  bool  // the layer is part of the code
	Build *Step // sees the source at /var/task and the layer at LayerDir; nil for none
	// Drop tells what of the source is no part of the code; nil for nothing.
	Drop func(path string) bool
	// Warnings are for the one who deploys.
	Warnings []string
}

// LayerDir is where a Build step sees the layer.
const LayerDir = "/var/layer"

// Step is a script for /bin/sh that is run in the sandbox, in an empty folder that it may write to. What it leaves
// below out is its output.
type Step struct {
	// Key stands for all that the output depends on beside the script, the arguments and the root file system. Two
	// steps of a namespace with the same key may share their output.
	Key string
	// Files of the source is all that it sees; nil for the whole source.
	Files  []string
	Script string
	Args   []string // $1 and so on
}

// Key is a digest of parts.
func Key(parts ...string) string {
	sum := sha256.New()
	for _, part := range parts {
		fmt.Fprintf(sum, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// maxRead bounds what is read of a source to make a plan.
const maxRead = 32 << 20

// Read gives a regular file of the source; ok is false where there is none.
func (s Source) Read(name string) (text string, ok bool, err error) {
	info, err := fs.Stat(s.FS, name)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular():
		return "", false, nil
	case err == nil && info.Size() > maxRead:
		err = errors.New("it is too large")
	}
	if err != nil {
		return "", false, unreadable(name, err)
	}
	raw, err := fs.ReadFile(s.FS, name)
	if err != nil {
		return "", false, unreadable(name, err)
	}
	return string(raw), true, nil
}

// Has tells whether the source has something of that name.
func (s Source) Has(name string) bool {
	_, err := fs.Stat(s.FS, name)
	return err == nil
}

func unreadable(name string, err error) error {
	return lambent.Errorf(lambent.CodeBuildFailed, "%s cannot be read: %w", name, err)
}
