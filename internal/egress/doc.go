// Package egress lets sandboxes without a network reach what their rules allow, and nothing else.
//
// A sandbox's supervisor makes listening sockets inside and passes them out; a [Gate] accepts on them here. The
// first is an HTTP proxy, for whoever knows proxies. Each rule with an exact host and port has one of its own, at
// an address that the sandbox's /etc/hosts gives the host, for whoever does not.
//
// Invariants:
//   - A name is looked up after a rule has allowed it, never before: lookups can carry data out too.
//   - What is dialled is an address that was checked, never a name, so a name whose answer changes gains nothing. Of
//     a name's addresses those that are refused are left out; the others may be used.
//   - Nothing reaches the node's own listeners, whatever the rules and [Options.Permit] say.
//   - After Close nothing of a Gate is open.
package egress
