//go:build lambent_embed

package process

import _ "embed"

// The Makefile builds the files before the program that embeds them.
//
//go:embed initbin/lambent-init
var embeddedInit []byte

//go:embed initbin/lambent-exec
var embeddedExec []byte

func initProgram() ([]byte, error) { return embeddedInit, nil }
func execProgram() ([]byte, error) { return embeddedExec, nil }
