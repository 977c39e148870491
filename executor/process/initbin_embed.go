//go:build lambent_embed

package process

import _ "embed"

// The Makefile builds the file before the program that embeds it.
//
//go:embed initbin/lambent-init
var embedded []byte

func initProgram() ([]byte, error) { return embedded, nil }
