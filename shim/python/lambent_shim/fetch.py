"""Handlers of web requests: async def fetch(request, env, ctx)."""

import asyncio
import os

from . import event, forwarded
from .server import failed
from .web import Headers, Request, Response
from .wire import BadResponse, of_app


class Context(event.Context):
    """What a handler may ask of the shim beside its request."""

    def __init__(self, env, exchange, spawn):
        super().__init__(env, exchange.invocation, exchange.deadline)
        self._spawn = spawn

    def wait_until(self, work):
        """Lets work, something to await, go on after the answer."""
        self._spawn(_finish(work))


async def _finish(work):
    try:
        await work
    except asyncio.CancelledError:
        pass
    except BaseException as error:
        failed(error)


class Fetch:
    """One handler, which takes the first count of request, env and ctx. It is cancelled when its caller leaves."""

    cancels = True

    def __init__(self, fetch, count):
        self._fetch = fetch
        self._count = count
        self._env = None

    async def start(self, env):
        """Takes the environment."""
        self._env = env

    async def stop(self):
        """Nothing is to be done."""

    async def __call__(self, exchange):
        context = Context(self._env, exchange, exchange.connection.server.spawn)
        given = (request_of(exchange), os.environ, context)[: self._count]
        response = await self._fetch(*given)
        if not isinstance(response, Response):
            raise BadResponse("fetch gave a %s, not a lambent.Response" % type(response).__name__)
        await _send(exchange, response)


def request_of(exchange):
    """Gives the Request of an exchange."""
    request = exchange.request
    host, port = forwarded.server(request.headers)
    scheme = forwarded.scheme(request.headers)
    origin = request.headers.get("host") or "%s:%s" % (host, port)
    path = event.unquote(request.target.partition("?")[0]).decode("utf-8", "replace")
    url = "%s://%s%s%s" % (scheme, origin, forwarded.prefix(request.headers), request.target)
    return Request(request.method, url, path, Headers(request.fields()), exchange.read)


async def _send(exchange, response):
    body = response.body
    if isinstance(body, str):
        body = body.encode("utf-8")
    exchange.begin(response.status, of_app(response.headers.items()))
    if body is None or isinstance(body, bytes):
        await exchange.write(body or b"", True)
        return
    await exchange.write(b"", False)  # the head need not wait for the body
    pieces = body.__aiter__()
    try:
        async for piece in pieces:
            piece = piece.encode("utf-8") if isinstance(piece, str) else piece
            if not isinstance(piece, bytes):
                raise BadResponse("a piece of the body is a %s, not bytes or str" % type(piece).__name__)
            if piece:
                await exchange.write(piece, False)
        await exchange.write(b"", True)
    finally:
        if hasattr(pieces, "aclose"):
            await pieces.aclose()
