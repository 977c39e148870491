"""HTTP/1.1 without the sockets: a strict reader of requests, a writer of answers; and a blocking connection."""

from _socket import MSG_DONTWAIT, MSG_PEEK

MAX_HEAD = 64 << 10
MAX_BODY = 64 << 20  # the host enforces the function's own limit; this one only bounds a host gone wrong
MAX_LINE = 1024

_TOKEN = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

# RFC 9110, section 7.6.1: what the shim says itself.
HOP_BY_HOP = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection",
    "te", "trailer", "transfer-encoding", "upgrade",
}  # fmt: skip


class Closed(Exception):
    """The peer has gone."""


class Refused(Exception):
    """The request is answered with an error and the connection closed."""

    def __init__(self, status, code, message):
        self.status = status
        self.code = code
        self.message = message


class BadResponse(Exception):
    """What the function answers is not valid."""


def is_token(text):
    """Tells whether text is a token of RFC 9110, section 5.6.2."""
    return text != "" and not text.strip(_TOKEN)


def is_value(text):
    """Tells whether text may be the value of a header field."""
    if text.isprintable() and text.isascii():
        return True
    return not any(c < " " and c != "\t" or c == "\x7f" or c > "\xff" for c in text)


def of_app(fields):
    """Gives those of an application's fields that are not of the hop or of the host. The announcement of trailers
    is the application's."""
    return [field for field in fields if _is_apps(field[0].lower())]


def _is_apps(lower):
    return (lower not in HOP_BY_HOP or lower == "trailer") and not lower.startswith("lambent-")


def check_field(name, value):
    """Raises BadResponse for what is no header field."""
    if not is_token(name):
        raise BadResponse("%.40r is not a valid header name" % name)
    if not is_value(value):
        raise BadResponse("header %s holds a line break or another character that no header may hold" % name)


class Request:
    """One request.

    headers has the fields by their names in lower case, repeated ones joined. coming takes the body out of what
    arrives and is None when there is no body; body is for whoever reads it whole.
    """

    __slots__ = ("method", "target", "headers", "coming", "body", "_lines")  # the last are those of the head

    def fields(self):
        """Gives the fields one by one, names in lower case, without those of the host's own."""
        pairs = (line.partition(":")[::2] for line in self._lines[1:])
        fields = ((name.lower(), value.strip(" \t")) for name, value in pairs)
        return [field for field in fields if not field[0].startswith("lambent-")]


def parse(head):
    """Gives the request of a head, which is without its last two line ends; raises Refused when it is no good."""
    request = Request()
    lines = head.split("\r\n")
    if not len(lines) - 1 == head.count("\r") == head.count("\n") or "\0" in head:
        raise malformed("the head has a stray control character")
    start = lines[0].split(" ")
    if len(start) != 3 or not is_token(start[0]) or not start[1] or start[2] != "HTTP/1.1":
        raise malformed("the request line is not that of HTTP/1.1")
    request.method, request.target, _ = start
    request.headers = headers = {}
    request._lines = lines
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not is_token(name):
            raise malformed("a header line has no valid name")
        name = name.lower()
        value = value.strip(" \t")
        if name in headers:
            value = headers[name] + ("; " if name == "cookie" else ",") + value
        headers[name] = value
    request.coming = _framing(headers)
    request.body = b""
    return request


def _framing(headers):
    coding = headers.get("transfer-encoding")
    length = headers.get("content-length")
    if coding is not None:
        if coding.lower() != "chunked" or length is not None:
            raise malformed("the length of the body is ambiguous")
        return Chunks()
    if length is None or length == "0":
        return None
    if not (length.isascii() and length.isdigit() and len(length) < 20):
        raise malformed("Content-Length is not a number")
    return Counted(int(length))


class Counted:
    """A body whose length was said."""

    __slots__ = ("left",)

    def __init__(self, length):
        self.left = length

    @property
    def done(self):
        """Tells whether all was taken."""
        return self.left == 0

    def bound(self):
        """Refuses a body that is longer than MAX_BODY, for those who keep the whole of it."""
        _bounded(self.left)

    def take(self, buffer):
        """Takes out of buffer what there is of the body."""
        piece = bytes(buffer[: self.left])
        del buffer[: len(piece)]
        self.left -= len(piece)
        return piece


class Chunks:
    """A body in chunks: RFC 9112, section 7.1."""

    __slots__ = ("done", "_bound", "_left", "_size", "_step", "_trailers")

    def __init__(self):
        self.done = False
        self._bound = False
        self._left = 0  # of the chunk
        self._size = 0  # of all chunks so far
        self._step = self._next
        self._trailers = 0

    def bound(self):
        """Refuses a body that is longer than MAX_BODY, for those who keep the whole of it."""
        self._bound = True

    def take(self, buffer):
        """Takes out of buffer what there is of the body."""
        pieces = []
        while not self.done and self._step(buffer, pieces):
            pass
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _next(self, buffer, _pieces):
        line = _line(buffer, MAX_LINE)
        if line is None:
            return False
        digits = line.partition(b";")[0].rstrip(b" \t")
        if not 0 < len(digits) < 16 or digits.strip(b"0123456789abcdefABCDEF"):
            raise malformed("a chunk has no valid size")
        self._left = int(digits, 16)
        self._size += self._left
        if self._bound:
            _bounded(self._size)
        self._step = self._data if self._left else self._trailer
        return True

    def _data(self, buffer, pieces):
        if not buffer:
            return False
        piece = bytes(buffer[: self._left])
        del buffer[: len(piece)]
        pieces.append(piece)
        self._left -= len(piece)
        if not self._left:
            self._step = self._end
        return True

    def _end(self, buffer, _pieces):
        if len(buffer) < 2:
            return False
        if not buffer.startswith(b"\r\n"):
            raise malformed("a chunk is longer than its size")
        del buffer[:2]
        self._step = self._next
        return True

    def _trailer(self, buffer, _pieces):
        line = _line(buffer, MAX_HEAD)
        if line is None:
            return False
        self._trailers += len(line)
        if self._trailers > MAX_HEAD:
            raise malformed("the trailers are too long")
        self.done = not line
        return True


def _bounded(size):
    if size > MAX_BODY:
        raise Refused(413, "body_too_large", "the body is longer than %d bytes" % MAX_BODY)


def take_head(buffer):
    """Takes a head out of buffer and gives its request; None when it is not all there yet."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        if len(buffer) > MAX_HEAD:
            raise Refused(431, "invalid_request", "the head is longer than %d bytes" % MAX_HEAD)
        return None
    head = buffer[:end].decode("latin-1")
    del buffer[: end + 4]
    return parse(head)


def _line(buffer, limit):
    end = buffer.find(b"\r\n", 0, limit + 2)
    if end < 0:
        if len(buffer) > limit:
            raise Refused(431, "invalid_request", "a line is longer than %d bytes" % limit)
        return None
    line = bytes(buffer[:end])
    del buffer[: end + 2]
    return line


def answer(method, status, fields, body, close):
    """Gives the bytes of a whole answer. Fields are pairs of strings, and valid; none is about the framing."""
    framing = None if status == 204 or status == 304 else "Content-Length: %d" % len(body)
    out = _head(status, fields, framing, close)
    return out if framing is None or method == "HEAD" else out + body


def _head(status, fields, framing, close):
    lines = ["HTTP/1.1 %d " % status]
    lines += ["%s: %s" % field for field in fields]
    if framing:
        lines.append(framing)
    if close:
        lines.append("Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class Answer:
    """The bytes of an answer whose body comes in pieces.

    Fields are pairs of strings, and valid. The body is framed by the Content-Length among them, else by its one
    piece, else in chunks.
    """

    __slots__ = ("begun", "_method", "_status", "_fields", "_close", "_length", "_left", "_bare")

    def __init__(self, method, status, fields, close):
        self.begun = False  # the head was given out
        self._method = method
        self._status = status
        self._close = close
        self._length = self._left = None  # the Content-Length, and what is left of it
        self._bare = method == "HEAD" or status == 204 or status == 304
        self._fields = kept = []
        for name, value in fields:
            lower = name.lower()
            if lower == "content-length":
                if not (value.isascii() and value.isdigit() and len(value) < 19):
                    raise BadResponse("content-length is %.40r, not a number" % value)
                if self._length not in (None, int(value)):
                    raise BadResponse("there are two values of content-length")
                self._length = self._left = int(value)
            else:
                kept.append((name, value))

    def piece(self, data, last, trailers=()):
        """Gives what to send for a piece of the body; raises BadResponse when it does not fit the Content-Length.
        Trailers, pairs like the fields, can go with the last piece of a body in chunks."""
        if self._left is not None and not self._bare:
            self._left -= len(data)
            if self._left < 0 or last and self._left:
                wrong = "longer" if self._left < 0 else "shorter"
                raise BadResponse("the body is %s than its content-length" % wrong)
        head = b"" if self.begun else self._begin(data if last and not trailers else None)
        self.begun = True
        if self._bare:
            return head
        if self._length is not None:
            return head + data
        if data:
            head = b"%b%x\r\n%b\r\n" % (head, len(data), data)
        if last:
            lines = ["%s: %s\r\n" % field for field in trailers]
            head += ("0\r\n%s\r\n" % "".join(lines)).encode("latin-1")
        return head

    def _begin(self, whole):
        framing = None
        if self._status == 204:
            self._length = None
        elif self._length is None and whole is not None and (not self._bare or self._method == "HEAD" and whole):
            self._length = len(whole)
        if self._length is not None:
            framing = "Content-Length: %d" % self._length
        elif not self._bare:
            framing = "Transfer-Encoding: chunked"
        return _head(self._status, self._fields, framing, self._close)


class Connection:
    """A blocking connection, and what was read from it but not used yet."""

    __slots__ = ("sock", "method", "resting", "_buffer")

    def __init__(self, sock):
        self.sock = sock
        self.method = "GET"  # of the request in hand
        self.resting = True  # nothing of a request has been taken
        self._buffer = bytearray()

    def pending(self):
        """Tells whether bytes of a next request are here already."""
        return len(self._buffer) > 0

    def head(self):
        """Gives the next request; raises Closed when there is none, Refused when it is no good."""
        while (request := take_head(self._buffer)) is None:
            self._receive()
        self.resting = False
        self.method = request.method
        return request

    def pieces(self, coming):
        """Gives a body as it comes."""
        while not coming.done:
            if piece := coming.take(self._buffer):
                yield piece
            elif not coming.done:
                self._receive()

    def skip(self, coming):
        """Drops what is there of a body already."""
        coming.take(self._buffer)

    def read(self):
        """Gives the next request with its whole body."""
        request = self.head()
        if coming := request.coming:
            coming.bound()
            request.body = coming.take(self._buffer)
            if not coming.done:
                request.body += b"".join(self.pieces(coming))
        return request

    def _receive(self):
        data = self.sock.recv(65536)
        if not data:
            raise Closed
        self._buffer += data

    def gone(self):
        """Tells whether the peer has hung up; only between requests, or once the body was read."""
        try:
            return not self._buffer and self.sock.recv(1, MSG_PEEK | MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False

    def write(self, status, fields, body, close):
        """Sends an answer."""
        self.sock.sendall(answer(self.method, status, fields, body, close))


def malformed(message):
    """Gives the refusal of what is not HTTP/1.1."""
    return Refused(400, "invalid_request", message)
