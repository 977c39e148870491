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

	"github.com/tetratelabs/wazero"

	"lambent"
	"lambent/executor/wasm/internal/artefact"
)

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
// expect.
func translate(ctx context.Context, r wazero.Runtime, wasm []byte) (c wazero.CompiledModule, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = unsupported("the engine cannot compile the module: %v", r).
				WithHint("build it with another optimisation level, and report the module to Lambent")
		}
	}()
	if c, err = r.CompileModule(ctx, wasm); err != nil {
		return nil, lambent.Errorf(lambent.CodeBundleInvalid, "the module is not valid WebAssembly: %v", err).
			WithHint("build it again with the newest version of its toolchain")
	}
	return c, nil
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
		err = errors.New("the engine has not written one file of native code")
	}
	if err != nil {
		return "", nil, internal(err)
	}
	if code, err = os.ReadFile(filepath.Join(s.dir, names[0])); err != nil {
		return "", nil, internal(err)
	}
	return names[0], code, nil
}

// bake compiles a module that differs from the one compiled before in what native code does not depend on: the size of
// its memory, the values of its globals, its data segments. So the file of the one is that of the other, but the engine
// finds it by a digest of the module. Should it look elsewhere, it compiles again, and what it writes is the file.
func (s *shop) bake(ctx context.Context, before, baked []byte) error {
	names, err := s.files()
	if err != nil || len(names) != 1 {
		return internal(errors.Join(err, errors.New("the engine has not written one file of native code")))
	}
	file := names[0]
	guess := filepath.Join(filepath.Dir(file), digest(baked, features(before, filepath.Base(file))))
	if err := os.Rename(filepath.Join(s.dir, file), filepath.Join(s.dir, guess)); err != nil {
		return internal(err)
	}
	b, err := s.compile(ctx, baked)
	if err != nil {
		return err
	}
	if err := b.Close(ctx); err != nil {
		return internal(err)
	}
	if names, err = s.files(); err == nil && len(names) > 1 {
		err = os.Remove(filepath.Join(s.dir, guess))
	}
	if err != nil {
		return internal(err)
	}
	return nil
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
