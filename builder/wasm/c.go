package wasm

import (
	"os"
	"regexp"
	"strings"
	"time"

	"lambent"
	"lambent/builder"
	sdk "lambent/shim/wasm"
)

const (
	clang = "/usr/bin/clang"
	// compileC takes the module, how it is started and the files. What libc only emulates is linked where it is asked for. The
	// stack comes first in memory, so that one that overflows traps instead of writing over data.
	compileC = open + `
module=$1
model=$2
shift 2
export=
[ "$model" = command ] || export=-Wl,--export=handle
exec ` + clang + ` --target=wasm32-wasi -mexec-model="$model" -Os -Wall -Werror=implicit-function-declaration -I . -o "/work/out/$module" \
	-D_WASI_EMULATED_SIGNAL -D_WASI_EMULATED_PROCESS_CLOCKS -D_WASI_EMULATED_GETPID -D_WASI_EMULATED_MMAN \
	-lwasi-emulated-signal -lwasi-emulated-process-clocks -lwasi-emulated-getpid -lwasi-emulated-mman -lm \
	-Wl,--stack-first -Wl,-z,stack-size=1048576 -Wl,--gc-sections -Wl,--strip-all $export -- "$@"
`
)

var includeRE = regexp.MustCompile(`(?m)^[ \t]*#[ \t]*include[ \t]*[<"]lambent\.h[>"]`)

func cFiles(src builder.Source) ([]string, error) { return glob(src, "*.c", "src/*.c") }

// planC compiles a library that the platform calls where a file includes lambent.h, and else a program.
func planC(src builder.Source, files []string) (*builder.Plan, error) {
	version := findClang()
	if version == "" {
		return nil, lacking(src, "C", "clang or wasi-libc is missing", "clang --target=wasm32-wasi -Os -o MODULE")
	}
	model := "command"
	for _, name := range files {
		text, _, err := src.Read(name)
		if err != nil {
			return nil, err
		}
		if includeRE.MatchString(text) {
			model = "reactor"
		}
	}
	return &builder.Plan{Build: &builder.Step{
		Key: builder.Key("c", version, src.Digest), Script: compileC,
		Args: append([]string{".", "lambent.h", sdk.Source("lambent.h"), src.Handler, model}, files...),
	}}, nil
}

// wasiLibc is where Debian has the C library.
const wasiLibc = "/usr/lib/wasm32-wasi/libc.a"

// findClang tells which compiler and library there are; "" where one is missing.
func findClang() string {
	version, _, _ := strings.Cut(versionOf(clang, "--version"), "\n")
	libc, err := os.Stat(wasiLibc)
	if err != nil || version == "" {
		return ""
	}
	return version + " with wasi-libc of " + libc.ModTime().UTC().Format(time.DateOnly)
}

func findC() lambent.Finding {
	version := findClang()
	if version == "" {
		return lambent.Finding{Detail: "clang or wasi-libc is missing: C cannot be compiled to WebAssembly", Hint: "install them with scripts/setup"}
	}
	return lambent.Finding{OK: true, Detail: version}
}
