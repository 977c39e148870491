"""WSGI 1.0.1 applications, PEP 3333, in threads."""

import io
import sys

from . import event, forwarded, server, threads
from .wire import Answer, BadResponse, check_field, of_app

_NOT_PASSED = ("content-type", "content-length", "proxy")  # the last would become HTTP_PROXY, which clients obey


class Server(threads.Server):
    """One application; a thread for each connection."""

    def _exchange(self, connection):
        request = connection.head()
        if server.is_ready(request):
            connection.write(*server.READY, self._stopping)
            return not self._stopping
        event.of_host(request)
        body = Input(connection, request.coming)
        call = Call(connection, request, self._stopping)
        environ = environ_of(request, body, self._env["LAMBENT_CONCURRENCY"] != "1")
        try:
            try:
                call.run(self._handler, environ)
            finally:
                self._check_child()
        except (Left, Broken):
            return False
        except BaseException as error:
            answer = server.failed(error)
            server.flush()
            if call.begun:
                return False  # what is missing of the body tells
            connection.write(*answer, not body.over or self._stopping)
        if not body.over:
            connection.skip(request.coming)
        return body.over and not self._stopping


class Left(ConnectionError):
    """The caller does not wait for the answer any more."""


class Broken(ConnectionError):
    """The body of the request broke off."""


class Input(io.RawIOBase):
    """The body of a request, as it comes."""

    def __init__(self, connection, coming):
        self._coming = coming
        self._pieces = connection.pieces(coming) if coming else iter(())
        self._rest = b""

    @property
    def over(self):
        """Tells whether all of it has come."""
        return not self._coming or self._coming.done

    def readable(self):
        """Always."""
        return True

    def readinto(self, into):
        """Fills into with what is there, or waits."""
        if not self._rest:
            try:
                self._rest = next(self._pieces, b"")
            except Exception as error:
                raise Broken("the body of the request broke off") from error
        count = min(len(into), len(self._rest))
        into[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def environ_of(request, body, several):
    """Gives the environment of a request."""
    headers = request.headers
    path, _, query = request.target.partition("?")
    host, port = forwarded.server(headers)
    environ = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": forwarded.prefix(headers),
        "PATH_INFO": event.unquote(path).decode("latin-1"),
        "QUERY_STRING": query,
        "REQUEST_URI": request.target,
        "SERVER_NAME": host,
        "SERVER_PORT": port,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": forwarded.client(headers),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": forwarded.scheme(headers),
        "wsgi.input": io.BufferedReader(body),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": several,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileWrapper,
        "lambent.invocation": headers["lambent-invocation"],
    }
    for name in ("content-type", "content-length"):
        if name in headers:
            environ[name.upper().replace("-", "_")] = headers[name]
    for name, value in headers.items():
        if "_" not in name and name not in _NOT_PASSED and not name.startswith("lambent-"):
            environ["HTTP_" + name.upper().replace("-", "_")] = value
    return environ


class FileWrapper:
    """Iterates over a file."""

    def __init__(self, file, size=65536):
        self._file = file
        self._size = size
        if hasattr(file, "close"):
            self.close = file.close

    def __iter__(self):
        return iter(lambda: self._file.read(self._size), b"")


class Call:
    """One call of the application and its answer."""

    def __init__(self, connection, request, closing):
        self._connection = connection
        self._request = request
        self._closing = closing
        self._answer = None

    @property
    def begun(self):
        """Tells whether something of the answer was sent."""
        return self._answer is not None and self._answer.begun

    def run(self, app, environ):
        """Calls the application and sends its answer."""
        parts = app(environ, self.start)
        try:
            known = len(parts) if isinstance(parts, (list, tuple)) else 0
            if known == 1 and not self.begun:
                self._send(parts[0], True)
                return
            for part in parts:
                if part:
                    self._send(part, False)
        finally:
            if hasattr(parts, "close"):
                parts.close()
        self._send(b"", True)

    def start(self, status, headers, exc_info=None):
        """The start_response of PEP 3333."""
        if exc_info:
            try:
                if self.begun:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self._answer:
            raise BadResponse("start_response was called twice without exc_info")
        self._answer = Answer(self._request.method, _status(status), _fields(headers), self._closing)
        return self._write

    def _write(self, data):
        if data:
            self._send(data, False)

    def _send(self, data, last):
        if not self._answer:
            raise BadResponse("the app gave a body, or ended, before it called start_response")
        if not isinstance(data, bytes):
            raise BadResponse("a part of the body is a %s, not bytes" % type(data).__name__)
        if last:
            server.flush()
        coming = self._request.coming
        if (not coming or coming.done) and self._connection.gone():
            raise Left
        try:
            self._connection.sock.sendall(self._answer.piece(data, last))
        except OSError as error:
            raise Left from error


def _status(status):
    code = status[:3] if isinstance(status, str) and status[3:4] in ("", " ") else ""
    if not (code.isascii() and code.isdigit()):
        raise BadResponse('the status is %.40r, not of the form "200 OK"' % (status,))
    if not 200 <= int(code) <= 599:
        raise BadResponse("the status is %.40r, not from 200 to 599" % status)
    return int(code)


def _fields(headers):
    if not isinstance(headers, list):
        raise BadResponse("the headers are a %s, not a list" % type(headers).__name__)
    for field in headers:
        if not isinstance(field, tuple) or len(field) != 2 or not all(isinstance(part, str) for part in field):
            raise BadResponse("the header %.80r is not a tuple of two strings" % (field,))
        check_field(*field)
    return of_app(headers)
