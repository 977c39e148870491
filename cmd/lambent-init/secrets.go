package main

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"lambent/internal/sandbox"
)

// secretFiles shows the secrets that are files, to the function's user only. They lie in a ramfs, because a tmpfs may
// be swapped out to a disk. Our copies of them are gone then.
func secretFiles(spec *sandbox.Spec) error {
	if len(spec.Secrets.Files) == 0 {
		return nil
	}
	dir := sandbox.SecretsDir[1:]
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return step("mkdir "+sandbox.SecretsDir, err)
	}
	if err := unix.Mount("ramfs", dir, "ramfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=500"); err != nil {
		return step("mount "+sandbox.SecretsDir, err)
	}
	for name, value := range spec.Secrets.Files {
		if err := writeSecret(dir+"/"+name, value, owner(spec)); err != nil {
			return step("write "+sandbox.SecretsDir+"/"+name, err)
		}
		clear(value)
	}
	if err := os.Chown(dir, owner(spec), owner(spec)); err != nil {
		return step("give "+sandbox.SecretsDir+" away", err)
	}
	return step("make "+sandbox.SecretsDir+" read-only", setAttributes(unix.AT_FDCWD, dir, 0, unix.MOUNT_ATTR_RDONLY))
}

// owner is the function's user as we see it: in our user namespace there is one only.
func owner(spec *sandbox.Spec) int {
	if spec.Level == sandbox.Userns {
		return 0
	}
	return spec.ID
}

func writeSecret(path string, value []byte, owner int) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o400)
	if err != nil {
		return err
	}
	_, err = f.Write(value)
	return errors.Join(err, f.Chown(owner, owner), f.Close())
}

// secretEnv gives the secrets that are variables as exec takes them, for whoever clears them afterwards. The copies in
// spec are gone then.
func secretEnv(spec *sandbox.Spec) (list [][]byte) {
	for name, value := range spec.Secrets.Env {
		variable := make([]byte, 0, len(name)+len(value)+2)
		variable = append(append(variable, name...), '=')
		list = append(list, append(append(variable, value...), 0))
		clear(value)
	}
	return list
}

// readOnce reads a file whose size is known into one buffer, so that clearing it leaves no copy.
func readOnce(f *os.File) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	raw := make([]byte, info.Size())
	_, err = io.ReadFull(f, raw)
	return raw, err
}
