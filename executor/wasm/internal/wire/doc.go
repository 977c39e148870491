// Package wire carries requests between the daemon and a worker: one stream socket, frames, many requests at a time.
//
// A frame is a head of 8 bytes, little endian, and a payload: 24 bits of the payload's length, 8 bits of its type, and 32
// bits of the stream or program that it is about. In and out frames carry a piece of a body; a flag says that a head comes
// before it, another that it is the last, and the result comes after it. So a request with a small body is one frame, and
// its answer is one frame.
//
//	to the worker    load (with descriptors), unload, in (head, body), credit, cancel
//	to the daemon    hello, loaded, out (head, body, result), credit, log
//
// Invariants:
//   - A stream begins with an in frame that has a head and ends with the out frame that has a result. The worker sends
//     nothing of it after that, so its slot can be used again; what is still on its way to the worker is ignored there.
//   - Bodies are sent against credit. A response begins with a credit of 32 KiB, and has up to [Window] as it is read; a
//     request's body that did not go with its head begins with none: it is not read before the guest asks for it.
//   - The worker marks a stream in the shared page before its guest begins. When the worker dies, what is not marked has
//     not been started, and can be given to another.
//   - Nobody's reader waits for anything but its socket.
//
// The daemon trusts nothing that comes from a worker: each length, count and number is bounded, and a worker that breaks
// a rule loses its connection with a [*ProtocolError]. What the page says is the worker's word about its own requests.
package wire
