// Package thread runs functions on operating system threads that are thrown away afterwards.
package thread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Spend runs f on a thread that ends with it, so f may change what belongs to a thread: its cgroups,
// namespaces, credentials, filters. It is never the first thread of the process, which Go would keep for
// ever and which the kernel shows as the process.
func Spend(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // not unlocked after f, so that the thread ends with the goroutine
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		Spend(f) // on another, as this one holds the first
		runtime.UnlockOSThread()
	}()
	<-done
}
