// Package artefact is what the compiler makes of a module and the workers run: files in a folder, or the same files as
// open descriptors. Compiler, host and worker are one binary, so they agree on the engine's configuration by using
// Config, and Version says when an artefact on disk is another binary's or another processor's.
package artefact

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
	"golang.org/x/sys/cpu"
)

// Features are what modules may use of WebAssembly: version 2.0, tail calls and extended constant expressions. Package
// module refuses the rest.
const Features = api.CoreFeaturesV2 | experimental.CoreFeaturesTailCall | experimental.CoreFeaturesExtendedConst

// Config is the engine's configuration of compiler and worker. Native code is found again only under the same one.
func Config(cache wazero.CompilationCache) wazero.RuntimeConfig {
	return wazero.NewRuntimeConfigCompiler().WithCoreFeatures(Features).WithDebugInfoEnabled(false).
		WithCompilationCache(cache)
}

// pipeline is the version of what package compile makes of a module.
const pipeline = 3

// Version tells artefacts of other versions and processors apart: those of another one are of no use. It has what the
// engine's disk cache makes its keys of, see fileCacheKey and CpuFeatures in wazero's source.
var Version = sync.OnceValue(func() string {
	engine := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			if dep.Path == "github.com/tetratelabs/wazero" {
				engine = dep.Version
			}
		}
	}
	return fmt.Sprintf("%d wazero %s %s %t %t %t %t %t", pipeline, engine, runtime.GOARCH,
		cpu.X86.HasSSE41, cpu.X86.HasBMI1, cpu.X86.HasBMI2, cpu.X86.HasPOPCNT, cpu.ARM64.HasATOMICS)
})

// The files of an artefact's folder.
const (
	ModuleFile = "module.wasm" // what the worker instantiates
	NativeFile = "native"      // the file that the engine's disk cache holds for it
	ImageFile  = "image"       // memory of a pristine instance, Meta.Pages long, sparse; empty without Meta.Image
	MetaFile   = "meta.json"
)

// Meta says what an artefact holds.
type Meta struct {
	Kind     string   `json:"kind"`            // abi.Kind
	Native   string   `json:"native"`          // path of the native code in the folder of the engine's disk cache
	Image    bool     `json:"image"`           // memory starts as the image; else the module has its data segments
	Init     []string `json:"init,omitempty"`  // functions that a fresh instance runs first, in order; none with an image
	Pages    uint32   `json:"pages"`           // of memory of a pristine instance
	Max      uint32   `json:"max"`             // pages that the module lets its memory grow to
	Overhead int64    `json:"overhead"`        // bytes that an instance takes besides its memory
	Epoch    string   `json:"epoch"`           // export name of the epoch global
	Fresh    []string `json:"fresh,omitempty"` // why no instance can be reset: each request needs a fresh one
}

// Files are an artefact's open files.
type Files struct {
	Meta                  Meta
	Module, Native, Image *os.File
}

// Open opens the artefact in dir.
func Open(dir string) (*Files, error) {
	text, err := os.ReadFile(filepath.Join(dir, MetaFile))
	if err != nil {
		return nil, err
	}
	var f Files
	if err := json.Unmarshal(text, &f.Meta); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, MetaFile), err)
	}
	for _, file := range []struct {
		to   **os.File
		name string
	}{{&f.Module, ModuleFile}, {&f.Native, NativeFile}, {&f.Image, ImageFile}} {
		if *file.to, err = os.Open(filepath.Join(dir, file.name)); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return &f, nil
}

// Close closes what is open of f.
func (f *Files) Close() error {
	var failed error
	for _, file := range []*os.File{f.Module, f.Native, f.Image} {
		if file != nil {
			failed = errors.Join(failed, file.Close())
		}
	}
	return failed
}
