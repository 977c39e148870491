"""Loads the handler, answers readiness, then serves requests one after the other."""

import _io
import _signal
import posix
import select
import sys
from _socket import socket
from time import time

from . import START, event, report
from .load import HandlerNotFound, load
from .wire import Closed, Connection, Refused

LISTENER = 3


class Context:
    """What AWS Lambda's context object has."""

    identity = None
    client_context = None

    def __init__(self, env, invocation, deadline):
        namespace, name = env["LAMBENT_NAMESPACE"], env["LAMBENT_FUNCTION"]
        self.aws_request_id = invocation
        self.function_name = name
        self.function_version = env["LAMBENT_REVISION"]
        self.invoked_function_arn = "arn:lambent:lambda:local:%s:function:%s" % (namespace, name)
        self.memory_limit_in_mb = env["LAMBENT_MEMORY"]  # a string, as there
        self.log_group_name = "/lambent/%s/%s" % (namespace, name)
        self.log_stream_name = env["LAMBENT_INSTANCE"]
        self._deadline = deadline

    def get_remaining_time_in_millis(self):
        """Milliseconds until the invocation is cut off."""
        return max(0, int(self._deadline - time() * 1000))


class Server:
    """One handler on one listening socket."""

    def __init__(self, listener, env):
        self._listener = listener
        self._env = env
        self._handler = None
        self._failure = None  # the answer to everything when the handler did not load
        self._stopping = False
        self._loop = None  # asyncio's, from the first coroutine on
        self._pid = posix.getpid()

    def load(self):
        """Loads the handler, or keeps why it could not be."""
        try:
            self._handler = load(self._env["LAMBENT_HANDLER"])
        except HandlerNotFound as error:
            self._failure = self._fail("start_failed", "HandlerNotFound", str(error), [])
        except BaseException as error:
            kind, message, trace = report.describe(error)
            if isinstance(error, SystemExit):
                message = "the module called sys.exit(%s) while it was loaded" % message
            self._failure = self._fail("start_failed", kind, message, trace)

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
        poller = select.poll()
        poller.register(LISTENER, select.POLLIN)
        poller.register(wake, select.POLLIN)
        connections = {}
        while not self._stopping:
            for fd, _ in poller.poll():
                if self._stopping:
                    break
                if fd == wake:
                    posix.read(wake, 512)
                elif fd == LISTENER:
                    if connection := self._accept():
                        connections[connection.sock.fileno()] = connection
                        poller.register(connection.sock, select.POLLIN)
                elif not self._serve(connections[fd]):
                    poller.unregister(fd)
                    connections.pop(fd).sock.close()

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

    def _serve(self, connection):
        """Answers what is there to answer; gives False when the connection is done with."""
        method = "GET"
        try:
            while True:
                request = connection.read()
                method = request.method
                status, headers, body = self._answer(request)
                flush()
                connection.write(method, status, headers, body, self._stopping)
                if self._failure:
                    posix._exit(1)  # threads that the module started must not hold it
                if self._stopping:
                    return False
                if not connection.pending():
                    return True
        except Refused as refused:
            answer = _refusal(refused.status, refused.code, "HTTP", refused.message)
            try:
                connection.write(method, *answer, True)
            except OSError:
                pass  # the peer does not wait for the answer
        except (Closed, OSError):
            pass
        return False

    def _answer(self, request):
        if self._failure:
            return self._failure
        if request.method == "OPTIONS" and request.target == "*":
            return 204, [("Lambent-Start", START)], b""
        try:
            invocation = request.headers["lambent-invocation"]
            trigger = request.headers["lambent-trigger"]
            context = Context(self._env, invocation, int(request.headers["lambent-deadline"]))
        except (KeyError, ValueError) as error:
            raise Refused(400, "invalid_request", "a header of the host is missing or wrong: %s" % error) from None
        if trigger == "http":
            given = event.of_http(request, self._env["LAMBENT_NAMESPACE"], self._env["LAMBENT_FUNCTION"], invocation)
            encode = event.to_http
        elif trigger == "invoke":
            try:
                given = event.of_payload(request.body)
            except event.BadPayload as error:
                return _refusal(400, "invalid_json", "BadPayload", str(error))
            encode = event.to_payload
        else:
            raise Refused(400, "invalid_request", "the trigger %r is unknown" % trigger)
        request.body = None  # the event has it; a handler that waits long should not hold it twice
        return self._call(given, context, encode)

    def _call(self, given, context, encode):
        try:
            try:
                result = self._handler(given, context)
                if hasattr(type(result), "__await__"):
                    result = self._await(result)
            finally:
                if posix.getpid() != self._pid:
                    posix._exit(1)  # a forked child that comes back here would answer a second time
            return encode(result)
        except event.BadResponse as error:
            return self._fail("bad_response", "BadResponse", str(error), [])
        except BaseException as error:
            kind, message, trace = report.describe(error)
            if isinstance(error, SystemExit):
                message = "the handler called sys.exit(%s)" % message
            return self._fail("handler_error", kind, message, trace)

    def _await(self, result):
        import asyncio

        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        return self._loop.run_until_complete(result)

    def _fail(self, code, kind, message, trace):
        """Logs a failure of the function's and gives its answer."""
        try:
            sys.stderr.write("\n".join(trace or ["%s: %s" % (kind, message)]) + "\n")
        except Exception:
            pass  # the function closed or replaced stderr; the answer tells
        return 500, *_error(code, report.encode(kind, message, trace))


def _refusal(status, code, kind, message):
    return status, *_error(code, report.encode(kind, message, []))


def _error(code, body):
    return [("Content-Type", "application/json"), ("Lambent-Error", code)], body


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


def main():
    """Runs the shim: the only entry."""
    sys.stdout = sys.__stdout__ = output(sys.stdout, 1)
    sys.stderr = sys.__stderr__ = output(sys.stderr, 2)
    task = posix.getcwd()
    runtime = __file__[: -len("/lambent_shim/server.py")]
    sys.path[:] = [task] + [p for p in sys.path if p not in ("", runtime)]
    posix.set_inheritable(LISTENER, False)
    env = {k.decode("ascii"): v.decode("utf-8") for k, v in posix.environ.items() if k.startswith(b"LAMBENT_")}
    server = Server(socket(fileno=LISTENER), env)
    server.load()
    server.run()
