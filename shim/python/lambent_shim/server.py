"""Loads the handler, answers readiness, then serves requests one after the other."""

import _io
import _signal
import posix
import select
import sys
from _socket import socket

from . import START, event, report
from .load import HandlerNotFound, load
from .wire import BadResponse, Closed, Connection, Refused

LISTENER = 3
READY = 204, [("Lambent-Start", str(START))], b""


class Server:
    """One handler of events on one listening socket, a request at a time. With a failure to load, that is the
    answer to everything."""

    def __init__(self, listener, env, handler, failure=None):
        self._listener = listener
        self._env = env
        self._handler = handler
        self._failure = failure
        self._stopping = False
        self._loop = None  # asyncio's, from the first coroutine on
        self._pid = posix.getpid()

    def run(self):
        """Serves until SIGTERM. A request in hand is finished first."""
        # The signal's byte in the pipe ends the poll: a flag alone would be seen too late when the signal
        # comes just before the poll.
        wake, poke = posix.pipe()
        posix.set_blocking(wake, False)
        posix.set_blocking(poke, False)
        _signal.set_wakeup_fd(poke, warn_on_full_buffer=False)
        if _signal.getsignal(_signal.SIGTERM) == _signal.SIG_DFL:
            _signal.signal(_signal.SIGTERM, self._stop)
        self._poller = select.poll()
        self._poller.register(LISTENER, select.POLLIN)
        self._poller.register(wake, select.POLLIN)
        self._connections = {}
        while not self._stopping:
            for fd, _ in self._poller.poll():
                if self._stopping:
                    break
                if fd == wake:
                    posix.read(wake, 512)
                elif fd == LISTENER:
                    if connection := self._accept():
                        self._meet(connection)
                elif not self._serve(self._connections[fd]):
                    self._poller.unregister(fd)
                    self._connections.pop(fd).sock.close()

    def _stop(self, _signal_number, _frame):
        self._stopping = True

    def _accept(self):
        try:
            fd, _ = self._listener._accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None  # it has gone again
        sock = socket(fileno=fd)
        sock.setblocking(True)  # the function may have set a default timeout
        return Connection(sock)

    def _meet(self, connection):
        self._connections[connection.sock.fileno()] = connection
        self._poller.register(connection.sock, select.POLLIN)

    def _serve(self, connection):
        """Answers what is there to answer; gives False when the connection is done with."""
        try:
            while self._exchange(connection):
                if not connection.pending():
                    return True
        except Refused as refused:
            answer = report.refusal(refused.status, refused.code, "HTTP", refused.message)
            try:
                connection.write(*answer, True)
            except OSError:
                pass  # the peer does not wait for the answer
        except (Closed, OSError):
            pass
        return False

    def _exchange(self, connection):
        """Takes a request and answers it; gives False when the connection ends with it."""
        request = connection.read()
        status, headers, body = self._answer(request)
        flush()
        connection.write(status, headers, body, self._stopping)
        if self._failure:
            posix._exit(1)  # threads that the module started must not hold it
        return not self._stopping

    def _answer(self, request):
        if self._failure:
            return self._failure
        if is_ready(request):
            return READY
        try:
            given, context, encode = event.take(request, self._env)
        except event.BadPayload as error:
            return report.refusal(400, "invalid_json", "BadPayload", str(error))
        try:
            try:
                result = self._handler(given, context)
                if hasattr(type(result), "__await__"):
                    result = self._await(result)
            finally:
                self._check_child()
            return encode(result)
        except BaseException as error:
            return failed(error)

    def _check_child(self):
        if posix.getpid() != self._pid:
            posix._exit(1)  # a forked child that comes back here would answer a second time

    def _await(self, result):
        import asyncio

        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        return self._loop.run_until_complete(result)


def is_ready(request):
    """Tells whether the host asks if we are ready, which we are when we answer."""
    return request.method == "OPTIONS" and request.target == "*"


def failed(error):
    """Logs what the function raised, or answered wrongly, and gives the answer to that."""
    if isinstance(error, BadResponse):
        return report.failure("bad_response", "BadResponse", str(error), [])
    return report.raised("handler_error", error, "the handler called sys.exit(%s)")


def flush():
    """Gives the host what was printed. A stream that the function closed or broke must not cost its answer."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass


class Pipe(_io.FileIO):
    """A pipe whose reader may have gone: that must not cost an answer."""

    def write(self, data):
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


def output(stream, fd):
    """Gives stream line by line: a process that is killed, for its time or its memory, must not take along
    what it printed before."""
    pipe = _io.BufferedWriter(Pipe(fd, "w", closefd=False))
    return _io.TextIOWrapper(pipe, stream.encoding, stream.errors, line_buffering=True)


def start(listener, env):
    """Loads the handler and gives what serves it."""
    name = env["LAMBENT_HANDLER"]
    handler = load(name)
    if ":" in name:
        from .apps import serve

        return serve(listener, env, name, handler)
    if env["LAMBENT_CONCURRENCY"] == "1":
        return Server(listener, env, handler)
    from .many import serve

    return serve(listener, env, name, handler)


def main():
    """Runs the shim: the only entry."""
    sys.stdout = sys.__stdout__ = output(sys.stdout, 1)
    sys.stderr = sys.__stderr__ = output(sys.stderr, 2)
    task = posix.getcwd()
    runtime = __file__[: -len("/lambent_shim/server.py")]
    # The bundle comes first: a module of its own that is named lambent wins over ours.
    sys.path[:] = [task] + [p for p in sys.path if p not in ("", runtime)] + [runtime + "/lib"]
    posix.set_inheritable(LISTENER, False)
    env = {k.decode("ascii"): v.decode("utf-8") for k, v in posix.environ.items() if k.startswith(b"LAMBENT_")}
    listener = socket(fileno=LISTENER)
    try:
        server = start(listener, env)
    except HandlerNotFound as error:
        told = report.failure("start_failed", type(error).__name__, str(error), [])
        server = Server(listener, env, None, told)
    except BaseException as error:
        told = report.raised("start_failed", error, "the module called sys.exit(%s) while it was loaded")
        server = Server(listener, env, None, told)
    server.run()
