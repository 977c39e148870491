"""The bootstrap that loads a Python handler and serves it inside a sandbox.

fd 3 is a listening unix socket made by the host. The handler is loaded before the first accept, so the
answer to the host's first request, OPTIONS *, is the readiness. After that requests come by HTTP/1.1 with a
few Lambent-* headers; stdout and stderr are flushed before each answer. server.py serves handlers of events, one
request at a time; threads.py gives each connection a thread, for those that say so and, by wsgi.py, for WSGI; aio.py
serves by asyncio what is async: events, asgi.py with websocket.py, and fetch.py.

Every import costs a cold start. What the plain handler of events needs imports no module of the standard library
that is not built into the interpreter, except json and asyncio, and those when a handler needs them.
"""

from time import monotonic_ns

START = monotonic_ns()
