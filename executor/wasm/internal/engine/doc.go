// Package engine runs guests inside a worker process: it loads artefacts and gives every call a pristine instance.
//
// A [Program] is a loaded artefact with a pool of parked instances, each of them byte for byte what the artefact says.
// [Program.Run] takes one, calls its entry, and puts it back to its first state when the answer is out: pages of memory
// that the guest wrote get their first content again, memory that it grew is gone, globals are set. What a reset
// could not undo (tables, dropped segments), and any instance whose guest trapped or was ended, is thrown away.
//
// Invariants, proved by the tests:
//   - No byte that one call left in memory, in grown memory or in a global is there in the next, whatever the guest is.
//   - A guest runs only with a token, there are as many as cores, and it is asked for a turn each millisecond: by a thread
//     of its own, so a garbage collection of this process waits no longer than that for it, see ticker.
//   - A guest that has to go is gone a tick after its deadline, unless it waits in a host function.
//   - Neither holds within one bulk instruction (memory.fill, memory.copy, memory.init), which nothing interrupts: it takes about
//     0.1 ms for each MiB, and 0.9 ms where the guest writes it for the first time.
//   - The process does not die of a guest: what memory can be had is asked for before wazero wants it.
//
// The engine takes the process for its own: [New] changes GOMAXPROCS and forbids transparent huge pages. Guests' code is
// hostile; what surrounds the process (namespaces, seccomp, cgroup) is not the engine's work.
package engine
