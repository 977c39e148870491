"""ASGI 3 applications: HTTP, and lifespan. websocket.py has the third scope."""

import asyncio

from . import event, forwarded, report
from .aio import Left
from .load import HandlerUnfit
from .server import failed
from .wire import BadResponse, check_field, of_app

# With 2.4 a sender must learn of a caller who left by an exception, and Starlette then stops to listen for the
# disconnect; with 2.3 it listens, and so ends streams that are silent.
_ASGI = {"version": "3.0", "spec_version": "2.3"}
_EXTENSIONS = {"http.response.trailers": {}}


class App:
    """One application."""

    cancels = False

    def __init__(self, app):
        self._app = app
        self._lifespan = None
        self._state = {}

    async def start(self, _env):
        """Runs the application's startup, if it has one. A failure of it is raised."""
        self._lifespan = Lifespan(self._app, self._state)
        await self._lifespan.start()

    async def stop(self):
        """Runs its shutdown."""
        await self._lifespan.stop()

    async def __call__(self, exchange):
        request = exchange.request
        if request.headers.get("upgrade", "").lower() == "websocket":
            from .websocket import Session, offer

            if offer(exchange):
                session = Session(exchange, scope_of(exchange, "websocket", self._state))
                await session.run(self._app)
                return
        call = Call(exchange)
        await self._app(scope_of(exchange, "http", self._state), call.receive, call.send)


class StartupFailed(HandlerUnfit):
    """The application says that it cannot start."""


class Lifespan:
    """The startup and the shutdown of an application; one that raises at once does without."""

    def __init__(self, app, state):
        self._app = app
        self._scope = {"type": "lifespan", "asgi": _ASGI, "state": state}
        self._orders = asyncio.Queue()
        self._answers = asyncio.Queue()
        self._task = None
        self._started = False

    async def start(self):
        """Waits until the startup is complete."""
        self._task = asyncio.ensure_future(self._run())
        answer = await self._ask("startup")
        if answer["type"] == "lifespan.startup.failed":
            raise StartupFailed(answer.get("message") or "the app does not say why")
        self._started = answer["type"] == "lifespan.startup.complete"

    async def stop(self):
        """Waits until the shutdown is complete."""
        if self._started and not self._task.done():
            answer = await self._ask("shutdown")
            if answer["type"] == "lifespan.shutdown.failed":
                report.log("the app's shutdown failed: %s" % answer.get("message", ""))

    async def _ask(self, what):
        self._orders.put_nowait({"type": "lifespan." + what})
        return await self._answers.get()

    async def _run(self):
        try:
            await self._app(self._scope, self._orders.get, self._answers.put)
        except Exception as error:
            if self._started:  # before, it means that the app has no lifespan, or it has said what it had to
                failed(error)
        finally:
            self._answers.put_nowait({"type": "ended"})


def scope_of(exchange, kind, state):
    """Gives the scope of a request."""
    request = exchange.request
    headers = request.headers
    path, _, query = request.target.partition("?")
    prefix = forwarded.prefix(headers)
    scheme = forwarded.scheme(headers)
    host, port = forwarded.server(headers)
    scope = {
        "type": kind,
        "asgi": _ASGI,
        "http_version": "1.1",
        "scheme": scheme,
        "path": prefix + (event.unquote(path).decode("utf-8", "replace") if "%" in path else path),
        "raw_path": (prefix + path).encode("latin-1"),
        "query_string": query.encode("latin-1"),
        "root_path": prefix,
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in request.fields()],
        "client": (client, 0) if (client := forwarded.client(headers)) else None,
        "server": (host, int(port)),
        "state": state.copy(),
        "extensions": _EXTENSIONS,
    }
    if kind == "http":
        scope["method"] = request.method
    else:
        scope["scheme"] = "wss" if scheme == "https" else "ws"
        scope["subprotocols"] = [p for p in map(str.strip, headers.get("sec-websocket-protocol", "").split(",")) if p]
        scope["extensions"] = {"websocket.http.response": {}}
    return scope


class Call:
    """The receive and the send of one request. prefix is that of the messages of an answer."""

    def __init__(self, exchange, prefix="http.response."):
        self._exchange = exchange
        self._prefix = prefix
        self._asked = False  # the end of the body was given
        self._trailers = None  # those to come, when they were promised
        self._bodied = False  # the last of the body was given

    async def receive(self):
        """Gives the next piece of the body, in the end that the caller has left."""
        exchange = self._exchange
        if not self._asked and not exchange.finished:
            try:
                piece = await exchange.read()
            except Left:
                return {"type": "http.disconnect"}
            self._asked = exchange.over
            return {"type": "http.request", "body": piece, "more_body": not self._asked}
        while not exchange.left and not exchange.finished:
            await exchange.news()
        return {"type": "http.disconnect"}

    async def send(self, message):
        """Takes a part of the answer."""
        exchange = self._exchange
        kind = message["type"]
        if exchange.finished:
            raise BadResponse("%s after the end of the answer" % kind)
        if kind == self._prefix + "start":
            if exchange.answer:
                raise BadResponse("%s for a second time" % kind)
            self._start(message)
        elif not exchange.answer:
            raise BadResponse("%s before %sstart" % (kind, self._prefix))
        elif kind == self._prefix + "body" and not self._bodied:
            self._bodied = not message.get("more_body", False)
            await exchange.write(message.get("body", b""), self._bodied and self._trailers is None)
        elif kind == "http.response.trailers" and self._trailers is not None and self._bodied:
            self._trailers += fields_of(message)
            if not message.get("more_trailers", False):
                await exchange.write(b"", True, self._trailers)
        else:
            raise BadResponse("%s is not what may come now" % kind)

    def _start(self, message):
        status = message["status"]
        if not isinstance(status, int) or not 200 <= status <= 599:
            raise BadResponse("the status is %.40r, not an integer from 200 to 599" % (status,))
        fields = fields_of(message)
        if message.get("trailers", False):
            self._trailers = []
        self._exchange.begin(int(status), fields)


def fields_of(message):
    """Gives the header fields of a message as strings."""
    fields = []
    for name, value in message.get("headers", ()):
        if not isinstance(name, bytes) or not isinstance(value, bytes):
            raise BadResponse("the header %.80r is not of bytes" % ((name, value),))
        name, value = name.decode("latin-1"), value.decode("latin-1").strip(" \t")
        check_field(name, value)
        fields.append((name, value))
    return of_app(fields)
