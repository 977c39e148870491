// Package store is the contract of the resource store: small values under keys, each with a revision.
//
// Invariants, proved for every implementation by storetest.Run; memory is the executable specification:
//   - A write that returned nil is durable and never lost silently: an implementation that finds it gone
//     refuses to open.
//   - Revisions are positive and grow with every write to the store, whatever the key.
//   - A watch gives the state as of its start, then [Event.Synced], then every later change to its keys in
//     the order of their revisions; it may leave out a change that a later one to the same key has overtaken.
package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
)

// Any, as a revision, makes a write unconditional.
const Any = ^uint64(0)

// MaxValue is the size of the largest value, in bytes.
const MaxValue = 1 << 20

// Errors that callers tell apart with errors.Is.
var (
	ErrNotFound = errors.New("no such key")
	ErrConflict = errors.New("the key is at another revision")
	ErrFull     = errors.New("the disk is below the free-space reserve")
	ErrKey      = errors.New("invalid key")
	ErrValue    = errors.New("the value is too large")
	ErrClosed   = errors.New("the store is closed")
)

// Store keeps values by key. Values that it gives must not be changed: several watches may share them. A
// write that fails with another error than the ones above may have been done all the same, and so may one
// whose ctx ended meanwhile. After Close everything gives ErrClosed.
type Store interface {
	// Get gives the entry at key, or ErrNotFound.
	Get(ctx context.Context, key string) (Entry, error)
	// Put writes value at key and gives its new revision. It succeeds only if the key is at revision: 0
	// means that the key must not exist, Any that its revision does not matter; otherwise ErrConflict.
	Put(ctx context.Context, key string, value []byte, revision uint64) (uint64, error)
	// Delete removes key under the same condition and gives the revision of that write. A missing key is
	// ErrNotFound with Any, ErrConflict otherwise.
	Delete(ctx context.Context, key string, revision uint64) (uint64, error)
	// List gives each entry whose key begins with prefix once, in no order, and those that change meanwhile
	// as they were or as they are. The sequence ends early with an error.
	List(ctx context.Context, prefix string) iter.Seq2[Entry, error]
	// Watch gives the events of the keys that begin with prefix until ctx ends, then an error that wraps
	// ctx's. A consumer that is slow loses nothing.
	Watch(ctx context.Context, prefix string) iter.Seq2[Event, error]
	// Close ends all watches with ErrClosed and releases what the store holds.
	Close() error
}

// Entry is a value at a revision.
type Entry struct {
	Key      string
	Value    []byte
	Revision uint64
}

// Event is a change: an entry written, or its key deleted.
type Event struct {
	Entry
	Deleted bool // Value is nil
	// Synced events carry no entry: all that was there when the watch began has been given.
	Synced bool
}

// CheckKey tells whether key is one or more dot-separated tokens of a-z, A-Z, 0-9, - and _, and at most
// 255 bytes long; a prefix ends in a dot, or is empty for all keys.
func CheckKey(key string) error {
	ok := key != "" && len(key) <= 255
	for token := range strings.SplitSeq(key, ".") {
		ok = ok && token != ""
		for _, c := range []byte(token) {
			ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_')
		}
	}
	if !ok {
		return fmt.Errorf("%w: %q", ErrKey, key)
	}
	return nil
}

// CheckPrefix tells whether prefix is empty, or a key and a dot.
func CheckPrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	key, dotted := strings.CutSuffix(prefix, ".")
	if !dotted || CheckKey(key) != nil {
		return fmt.Errorf("%w: prefix %q", ErrKey, prefix)
	}
	return nil
}

// CheckValue tells whether value is at most MaxValue bytes.
func CheckValue(value []byte) error {
	if len(value) > MaxValue {
		return fmt.Errorf("%w: %d bytes, the limit is %d", ErrValue, len(value), MaxValue)
	}
	return nil
}
