// Package lambent holds the words of the platform as plain structs, its error type and the one door
// that every call goes through, [Invoker]. Every other room imports it, and it imports the standard library
// only, which words_test.go guards.
//
// Data flows one way: a door (gateway, control) makes an [Invocation] of a [Revision] and hands it to
// the Invoker; dispatch leases an instance of an executor; the [Response] streams back, and when its
// body is closed the invocation's [Outcome] is complete.
package lambent

//go:generate go run ./internal/errgen
