"""The bootstrap that loads a Python handler and serves it inside a sandbox.

fd 3 is a listening unix socket made by the host. The handler is loaded before the first accept, so the
answer to the host's first request, OPTIONS *, is the readiness. After that one request at a time is
served: HTTP/1.1 with a few Lambent-* headers in, HTTP/1.1 out, stdout and stderr flushed before each answer.

Every import costs a cold start. Nothing here imports a module of the standard library that is not built
into the interpreter, except json and asyncio, and those when a handler needs them.
"""

from time import monotonic_ns

START = monotonic_ns()
