package compile

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/tetratelabs/wazero"

	"lambent"
	"lambent/executor/wasm/internal/artefact"
)

var errNotOne = errors.New("the engine has not written one file of native code")

// shop compiles modules. The engine keeps their native code in files of the shop's folder.
type shop struct{ dir string }

func openShop(dir string) (*shop, error) {
	dir, err := os.MkdirTemp(dir, "native-")
	if err != nil {
		return nil, internal(err)
	}
	return &shop{dir}, nil
}

// Close removes the folder.
func (s *shop) Close() error { return os.RemoveAll(s.dir) }

// compiled is a module, in a runtime of its own.
type compiled struct {
	wazero.Runtime
	cache  wazero.CompilationCache
	module wazero.CompiledModule
}

func (s *shop) compile(ctx context.Context, wasm []byte) (b *compiled, err error) {
	b = &compiled{}
	if b.cache, err = wazero.NewCompilationCacheWithDir(s.dir); err != nil {
		return nil, internal(err)
	}
	b.Runtime = wazero.NewRuntimeWithConfig(ctx, artefact.Config(b.cache))
	if b.module, err = translate(ctx, b.Runtime, wasm); err != nil {
		return nil, errors.Join(err, b.Close(ctx))
	}
	return b, nil
}

// Close frees the native code as well.
func (b *compiled) Close(ctx context.Context) error {
	return errors.Join(b.Runtime.Close(ctx), b.cache.Close(ctx))
}

// translate has the engine check and compile a module. The engine's compiler panics where it meets what it did not
// expect. What the system refuses it says nothing about the module.
func translate(ctx context.Context, r wazero.Runtime, wasm []byte) (c wazero.CompiledModule, err error) {
	defer func() {
		r := recover()
		if said, ok := r.(error); ok {
			err = said
		}
		switch {
		case errors.As(err, new(syscall.Errno)):
			err = internal(err)
		case r != nil:
			err = unsupported("the engine cannot compile the module: %v", r).
				WithHint("build it with another optimisation level, and report the module to Lambent")
		case err != nil:
			err = lambent.Errorf(lambent.CodeBundleInvalid, "the module is not valid WebAssembly: %v", err).
				WithHint("build it again with the newest version of its toolchain")
		}
	}()
	return r.CompileModule(ctx, wasm)
}

// files gives the paths of the native code in the folder.
func (s *shop) files() (names []string, err error) {
	err = fs.WalkDir(os.DirFS(s.dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, path)
		}
		return err
	})
	return names, err
}

// read gives the native code of a module that has been compiled.
func (s *shop) read() (name string, code []byte, err error) {
	names, err := s.files()
	if err == nil && len(names) != 1 {
		err = errNotOne
	}
	if err != nil {
		return "", nil, internal(err)
	}
	if code, err = os.ReadFile(filepath.Join(s.dir, names[0])); err != nil {
		return "", nil, internal(err)
	}
	return names[0], code, nil
}

// rename makes the native code of the one module that has been compiled that of another, which differs from it in nothing
// that native code depends on, so in the functions' code only where it has none. The engine finds the file by a digest of
// the module. It says whether the engine does find it, or has compiled the other module.
func (s *shop) rename(ctx context.Context, compiled, other []byte) (found bool, err error) {
	names, err := s.files()
	if err != nil || len(names) != 1 {
		return false, internal(errors.Join(err, errNotOne))
	}
	file := names[0]
	guess := filepath.Join(filepath.Dir(file), digest(other, features(compiled, filepath.Base(file))))
	if err := os.Rename(filepath.Join(s.dir, file), filepath.Join(s.dir, guess)); err != nil {
		return false, internal(err)
	}
	c, err := s.compile(ctx, other)
	if err != nil {
		return false, err
	}
	if err := c.Close(ctx); err != nil {
		return false, internal(err)
	}
	if names, err = s.files(); err != nil {
		return false, internal(err)
	}
	return len(names) == 1, nil
}

// only compiles a module and forgets what was compiled before.
func (s *shop) only(ctx context.Context, wasm []byte) error {
	names, err := s.files()
	for _, name := range names {
		err = errors.Join(err, os.Remove(filepath.Join(s.dir, name)))
	}
	if err != nil {
		return internal(err)
	}
	c, err := s.compile(ctx, wasm)
	if err != nil {
		return err
	}
	return c.Close(ctx)
}

// digest is the name of the native code of a module on a processor with the features, see Module.AssignModuleID and
// fileCacheKey in wazero's source.
func digest(wasm []byte, features uint64) string {
	id := sha256.New()
	id.Write(wasm)
	id.Write([]byte{0}) // without checks of the context, which the epoch makes needless
	key := sha256.New()
	key.Write(id.Sum(nil))
	key.Write([]byte("WAZEVO"))
	key.Write(binary.LittleEndian.AppendUint64(nil, features))
	return hex.EncodeToString(key.Sum(nil))
}

// features finds out which ones the engine has put into a name. It knows three, and they are not to be had from it.
func features(wasm []byte, name string) uint64 {
	for f := range uint64(1 << 8) {
		if strings.EqualFold(digest(wasm, f), name) {
			return f
		}
	}
	return 0
}
