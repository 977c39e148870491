package wasm

import (
	"os"
	"path"
	"regexp"
	"strings"

	"lambent"
	"lambent/builder"
	sdk "lambent/shim/wasm"
)

const (
	rustc = "/usr/bin/rustc"
	// compileRust takes the module, the target, what kind of crate it is, the edition and the file that is compiled. A library
	// gets the start of a reactor, so that what initialises it runs once and not in every call.
	compileRust = open + `
module=$1
target=$2
edition=$3
file=$4
case $file in
*main.rs) set -- --crate-type bin ;;
*)
	start=$(` + rustc + ` --print target-libdir --target "$target")/self-contained/crt1-reactor.o
	set -- --crate-type cdylib -C link-arg="$start" -C link-arg=--export=_initialize -C link-arg=--export=handle ;;
esac
exec ` + rustc + ` "$@" --crate-name function --edition "$edition" --target "$target" --color never --remap-path-prefix /work/src= \
	-C opt-level=s -C lto -C codegen-units=1 -C panic=abort -C strip=symbols -o "/work/out/$module" "$file"
`
)

// rustTargets are the names of WASI preview 1 in newer and older versions of Rust.
var rustTargets = []string{"wasm32-wasip1", "wasm32-wasi"}

var rustMains = []string{"src/main.rs", "src/lib.rs", "main.rs", "lib.rs"}

func rustFiles(src builder.Source) ([]string, error) {
	return glob(src, append(rustMains, "Cargo.toml")...)
}

// planRust compiles main.rs to a program, and lib.rs to a library that the platform calls.
func planRust(src builder.Source, files []string) (*builder.Plan, error) {
	main := files[0]
	manifest, isCrate, err := src.Read("Cargo.toml")
	switch {
	case err != nil:
		return nil, err
	case main == "Cargo.toml":
		return nil, failed("Cargo.toml has neither src/main.rs nor src/lib.rs beside it").WithHint("workspaces: deploy one of their crates")
	case path.Base(main) == "main.rs" && src.Has(path.Dir(main)+"/lib.rs"):
		return nil, failed("there are both %s and %s/lib.rs", main, path.Dir(main)).
			WithHint("keep main.rs for a program that runs once a request, or lib.rs for a library with the function handle")
	}
	edition := "2021"
	if isCrate {
		if edition, err = crate(manifest); err != nil {
			return nil, err
		}
	}
	version, target := findRustc()
	if target == "" {
		return nil, lacking(src, "Rust", "it has no rustc in /usr with its library for wasm32-wasi",
			"cargo build --release --target wasm32-wasip1, then copy the .wasm file of target/wasm32-wasip1/release to MODULE")
	}
	return &builder.Plan{Build: &builder.Step{
		Key: builder.Key("rust", version, src.Digest), Script: compileRust,
		Args: []string{path.Dir(main), "lambent.rs", sdk.Source("lambent.rs"), src.Handler, target, edition, main},
	}}, nil
}

var (
	editionRE = regexp.MustCompile(`^edition\s*=\s*["'](\d{4})["']`)
	sectionRE = regexp.MustCompile(`^\[+\s*([^\]]*?)\s*\]`)
)

// crate gives the edition that a Cargo.toml names. Crates that need others are refused: cargo, which would get them, is not
// what builds here.
func crate(manifest string) (edition string, err error) {
	edition = "2015" // cargo's default
	section := ""
	for line := range strings.Lines(manifest) {
		line = strings.TrimSpace(line)
		if m := sectionRE.FindStringSubmatch(line); m != nil {
			section = m[1]
			if !strings.Contains(section, "dependencies.") {
				continue
			}
		}
		if m := editionRE.FindStringSubmatch(line); m != nil && section == "package" {
			edition = m[1]
		}
		if line != "" && line[0] != '#' && strings.Contains(section, "dependencies") && !strings.Contains(section, "dev-dependencies") {
			return "", failed("Cargo.toml names dependencies (%s), which are not built here", line).
				WithHint("build it where cargo is, cargo build --release --target wasm32-wasip1, and deploy a folder with the module as main.wasm")
		}
	}
	return edition, nil
}

// findRustc gives the version of Rust and its target for WASI; "" where one of them is missing.
func findRustc() (version, target string) {
	for _, target := range rustTargets {
		if _, err := os.Stat("/usr/lib/rustlib/" + target); err != nil {
			continue
		}
		if version := versionOf(rustc, "--version"); version != "" {
			return version, target
		}
	}
	return "", ""
}

// findRust counts a missing Rust as no fault: modules that were made elsewhere run without.
func findRust() lambent.Finding {
	version, target := findRustc()
	if target == "" {
		return lambent.Finding{OK: true, Detail: "no rustc in /usr with a library for wasm32-wasi: Rust is deployed as a module that was built elsewhere"}
	}
	return lambent.Finding{OK: true, Detail: version + " for " + target}
}
