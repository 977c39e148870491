package wasm

func sdk(string) string { return "" }
