"""The server by asyncio: many requests at a time, whose bodies stream both ways."""

import asyncio
import select
import signal
import socket
import sys

from . import event, report
from .server import READY, failed, flush, is_ready
from .wire import Answer, BadResponse, Refused, answer, take_head

_BACKLOG = 4096
_MUCH = 256 << 10  # bytes of a body that wait for the application before the sender must


class Left(ConnectionError):
    """The caller does not wait for the answer any more."""


class Server:
    """Serves an application: start() and stop() around everything, and a call of it for each exchange. What its
    start raises is a failed start."""

    def __init__(self, listener, env, app):
        self.app = app
        self.connections = set()
        self.stopping = False
        self._listener = listener
        self._tasks = set()
        # In Python 3.9, what the module made of asyncio's at its top level is bound to the default loop.
        self.loop = asyncio.new_event_loop() if sys.version_info >= (3, 10) else asyncio.get_event_loop()
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(app.start(env))

    def run(self):
        """Serves until SIGTERM. What was begun is finished first."""
        self.loop.run_until_complete(self._run())

    async def _run(self):
        stop = asyncio.Event()
        if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            self.loop.add_signal_handler(signal.SIGTERM, stop.set)
        listener = socket.socket(fileno=self._listener.detach())
        server = await self.loop.create_server(lambda: Connection(self), sock=listener, backlog=_BACKLOG)
        await stop.wait()
        self.stopping = True
        server.close()
        for connection in list(self.connections):
            connection.stop()
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self.app.stop()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self.loop.shutdown_asyncgens()

    def spawn(self, work):
        """Gives a task that is waited for before the end."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def serve(self, exchange):
        """Answers one request."""
        try:
            await self.app(exchange)
            exchange.check_answered()
        except Refused as refused:
            exchange.refuse(refused)
        except asyncio.CancelledError as error:
            if not exchange.left:
                exchange.fail(error)
        except BaseException as error:
            if not (exchange.left and _is_of_leaving(error)):
                exchange.fail(error)
        finally:
            exchange.abandon()


def _is_of_leaving(error):
    """Tells whether an exception came about because the caller left."""
    for _ in range(100):
        if error is None or isinstance(error, Left):
            break
        error = error.__cause__ or error.__context__
    return error is not None


class Connection(asyncio.Protocol):
    """One connection of the host's, with one exchange at a time."""

    def __init__(self, server):
        self.server = server
        self.exchange = None  # the one in hand
        self.tunnel = None  # who has the connection after a switch of protocols
        self.transport = None
        self.full = False  # much waits to be written
        self._buffer = bytearray()
        self._watch = None  # an epoll that sees the caller leave while nothing is read
        self._room = None  # an Event for those who wait to write

    def connection_made(self, transport):
        """Implements asyncio.Protocol."""
        self.transport = transport
        self.server.connections.add(self)

    def connection_lost(self, _error):
        """Implements asyncio.Protocol."""
        self.server.connections.discard(self)
        self.resume_reading()
        if self.tunnel:
            self.tunnel.lost()
        self._leave()

    def eof_received(self):
        """Implements asyncio.Protocol: the caller has left, but work in hand may go on."""
        if self.tunnel:
            return self.tunnel.eof()
        self._leave()
        return self.exchange is not None

    def _leave(self):
        if self.exchange:
            self.exchange.leave()
        self.resume_writing()

    def data_received(self, data):
        """Implements asyncio.Protocol."""
        if self.tunnel:
            self.tunnel.feed(data)
            return
        self._buffer += data
        if self.exchange:
            self.exchange.feed()
        else:
            self._next()

    def _next(self):
        try:
            while not self.exchange and not self.transport.is_closing():
                request = take_head(self._buffer)
                if request is None:
                    return
                if is_ready(request):
                    self.transport.write(answer("OPTIONS", *READY, False))
                    continue
                self.exchange = exchange = Exchange(self, request, self._buffer)
                exchange.task = self.server.spawn(self.server.serve(exchange))
                exchange.feed()
        except Refused as refused:
            told = report.refusal(refused.status, refused.code, "HTTP", refused.message)
            self.transport.write(answer("GET", *told, True))
            self.transport.close()

    def finish(self, keep):
        """Ends the exchange in hand; keep tells whether another may follow."""
        if self.exchange:
            self.exchange = None
            if not keep or self.server.stopping:
                self.transport.close()
            else:
                self.resume_reading()
                if self._buffer:
                    self._next()

    def switch(self, tunnel):
        """Hands the connection over to another protocol."""
        self.tunnel = tunnel
        self.exchange = None
        self.resume_reading()
        if self._buffer:
            tunnel.feed(bytes(self._buffer))

    def stop(self):
        """Ends what is idle."""
        if self.tunnel:
            self.tunnel.stop()
        elif not self.exchange:
            self.transport.close()

    def pause_reading(self):
        """Reads no more of a request until resume_reading, but sees the caller leave."""
        if not self._watch:
            self.transport.pause_reading()
            self._watch = select.epoll()
            self._watch.register(self.transport.get_extra_info("socket"), select.EPOLLRDHUP)
            self.server.loop.add_reader(self._watch, self._hung_up)

    def resume_reading(self):
        """Reads again."""
        if self._watch:
            self.server.loop.remove_reader(self._watch)
            self._watch.close()
            self._watch = None
            self.transport.resume_reading()

    def _hung_up(self):
        self.server.loop.remove_reader(self._watch)
        self._leave()

    def pause_writing(self):
        """Implements asyncio.Protocol."""
        self.full = True

    def resume_writing(self):
        """Implements asyncio.Protocol."""
        self.full = False
        if self._room:
            self._room.set()
        if self.tunnel:
            self.tunnel.resumed()

    async def drain(self):
        """Waits until there is room for more."""
        while self.full and not self.transport.is_closing():
            self._room = self._room or asyncio.Event()
            self._room.clear()
            await self._room.wait()


class Exchange:
    """One request, whose body is read as it comes, and its answer."""

    def __init__(self, connection, request, buffer):
        self.request = request
        self.invocation, self.trigger, self.deadline = event.of_host(request)
        self.connection = connection
        self.task = None
        self.left = False  # the caller has left
        self.finished = False  # the answer has been given, or never will be
        self.answer = None
        self._buffer = buffer
        self._pieces = []
        self._size = 0  # of the pieces
        self._news = None

    @property
    def received(self):
        """Tells whether the body has come whole."""
        return not self.request.coming or self.request.coming.done

    @property
    def over(self):
        """Tells whether the body has been read to its end."""
        return not self._pieces and self.received

    def feed(self):
        """Takes what came of the body."""
        if self.received:
            if len(self._buffer) > _MUCH:
                self.connection.pause_reading()
            return
        try:
            piece = self.request.coming.take(self._buffer)
        except Refused as refused:
            self.refuse(refused)
            self.leave()
            return
        if piece:
            self._pieces.append(piece)
            self._size += len(piece)
            if self._size > _MUCH:
                self.connection.pause_reading()
        self._tell()

    def leave(self):
        """Takes note that the caller has left."""
        if self.left:
            return
        self.left = True
        self._tell()
        if self.connection.server.app.cancels and not self.finished and self.task:
            self.task.cancel()

    def _tell(self):
        if self._news:
            self._news.set()

    async def news(self):
        """Waits until something has happened."""
        self._news = self._news or asyncio.Event()
        self._news.clear()
        await self._news.wait()

    async def read(self):
        """Gives the next piece of the body, b"" at its end; raises Left when the caller left before that."""
        while not self._pieces:
            if self.received:
                return b""
            if self.left:
                raise Left("the caller left in the middle of its request")
            await self.news()
        piece = self._pieces.pop() if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        self.connection.resume_reading()
        return piece

    async def whole(self):
        """Gives the whole body."""
        if self.request.coming:
            self.request.coming.bound()
        pieces = []
        while piece := await self.read():
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def begin(self, status, fields):
        """Says status and fields; they go out with the first piece. Raises BadResponse."""
        self.answer = Answer(self.request.method, status, fields, self.connection.server.stopping)

    async def write(self, data, last, trailers=()):
        """Sends a piece of the answer; raises Left when nobody waits for it, BadResponse when it does not fit."""
        out = self.answer.piece(data, last, trailers)
        if self.left:
            raise Left("the caller has left")
        if last:
            flush()
        self.connection.transport.write(out)
        if last:
            self._finish(True)
        else:
            await self.connection.drain()

    def send(self, status, fields, body):
        """Sends a whole answer, whose fields are the shim's own."""
        flush()
        close = self.connection.server.stopping
        self.connection.transport.write(answer(self.request.method, status, fields, body, close))
        self._finish(True)

    def _finish(self, keep):
        self.finished = True
        self._tell()
        self.connection.finish(keep and self.received and not self.left)

    def refuse(self, refused):
        """Answers that the request is no good."""
        if not self.finished:
            self._tell_failure(report.refusal(refused.status, refused.code, "HTTP", refused.message))

    def fail(self, error):
        """Logs what the function raised, and answers it where the answer has not begun."""
        answer = failed(error)
        if not self.finished:
            self._tell_failure(answer)

    def _tell_failure(self, answer):
        if self.answer and self.answer.begun:
            self.abandon()
        else:
            self.send(*answer)

    def check_answered(self):
        """Raises when the function has ended without an answer."""
        if not self.finished and not self.left:
            begun = self.answer and self.answer.begun
            raise BadResponse("it ended %s" % ("in the middle of its answer" if begun else "without an answer"))

    def abandon(self):
        """Breaks off an answer that was not finished."""
        if not self.finished:
            self._finish(False)


class Events:
    """An async handler of events as an application."""

    cancels = False

    def __init__(self, handler, env):
        self._handler = handler
        self._env = env

    async def start(self, env):
        """Nothing is to be done."""

    async def stop(self):
        """Nothing is to be done."""

    async def __call__(self, exchange):
        exchange.request.body = await exchange.whole()
        try:
            given, context, encode = event.take(exchange.request, self._env)
        except event.BadPayload as error:
            exchange.send(*report.refusal(400, "invalid_json", "BadPayload", str(error)))
            return
        exchange.send(*encode(await self._handler(given, context)))
