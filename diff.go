package lambent

import "time"

// Diff is how two revisions of a function differ. It holds no value of the environment.
type Diff struct {
	From     RevisionInfo  `json:"from"`
	To       RevisionInfo  `json:"to"`
	Settings []FieldChange `json:"settings" nullable:"false"` // by field; env is not among them
	Env      EnvDiff       `json:"env"`
	// Dependencies are the packages that the code brings along, by name.
	Dependencies []DependencyChange `json:"dependencies" nullable:"false"`
	Files        []FileChange       `json:"files" nullable:"false"` // by path
}

// DependencyChange is a package whose version differs; "" where it is not there. Several versions of one are joined
// by commas.
type DependencyChange struct {
	Name string `json:"name"`
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
}

// RevisionInfo tells one revision from another.
type RevisionInfo struct {
	ID      string    `json:"id"`
	Code    string    `json:"code"`
	Root    string    `json:"root"`
	Created time.Time `json:"created"`
}

// FieldChange is a setting that differs, such as timeouts.total. A side that does not have it is nil.
type FieldChange struct {
	Field string `json:"field"`
	From  any    `json:"from,omitempty"`
	To    any    `json:"to,omitempty"`
}

// EnvDiff names the variables of the environment that differ.
type EnvDiff struct {
	Added   []string `json:"added" nullable:"false"`
	Removed []string `json:"removed" nullable:"false"`
	Changed []string `json:"changed" nullable:"false"`
}

// FileChange is a file or symbolic link of the code that differs. From is nil when it was added, To when it
// was removed.
type FileChange struct {
	Path string    `json:"path"`
	From *CodeFile `json:"from,omitempty"`
	To   *CodeFile `json:"to,omitempty"`
}

// CodeFile is a file or symbolic link in a bundle.
type CodeFile struct {
	Size       int64  `json:"size"`             // bytes
	Digest     string `json:"digest,omitempty"` // of the content, "sha256:" and 64 hex digits
	Executable bool   `json:"executable,omitempty"`
	Link       string `json:"link,omitempty"` // what a symbolic link points to
}
