"""HTTP/1.1 on one connection: a strict reader of requests and a writer of answers."""

MAX_HEAD = 64 << 10
MAX_BODY = 64 << 20  # the host enforces the function's own limit; this one only bounds a host gone wrong

_TOKEN = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Closed(Exception):
    """The peer has gone."""


class Refused(Exception):
    """The request is answered with an error and the connection closed."""

    def __init__(self, status, code, message):
        self.status = status
        self.code = code
        self.message = message


def is_token(text):
    """Tells whether text is a token of RFC 9110, section 5.6.2."""
    return text != "" and not text.strip(_TOKEN)


class Request:
    """One request. Header names are in lower case, repeated fields joined."""

    __slots__ = ("method", "target", "headers", "body")


class Connection:
    """A connection and what was read from it but not used yet."""

    __slots__ = ("sock", "_buffer", "_at")

    def __init__(self, sock):
        self.sock = sock
        self._buffer = b""
        self._at = 0

    def pending(self):
        """Tells whether bytes of a next request are here already."""
        return self._at < len(self._buffer)

    def read(self):
        """Gives the next request; raises Closed when there is none, Refused when it is no good."""
        request = Request()
        head = self._until(b"\r\n\r\n", MAX_HEAD).decode("latin-1")
        lines = head.split("\r\n")
        if not len(lines) - 1 == head.count("\r") == head.count("\n") or "\0" in head:
            raise _malformed("the head has a stray control character")
        start = lines[0].split(" ")
        if len(start) != 3 or not is_token(start[0]) or not start[1] or start[2] != "HTTP/1.1":
            raise _malformed("the request line is not that of HTTP/1.1")
        request.method, request.target, _ = start
        request.headers = headers = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon or not is_token(name):
                raise _malformed("a header line has no valid name")
            name = name.lower()
            value = value.strip(" \t")
            if name in headers:
                value = headers[name] + ("; " if name == "cookie" else ",") + value
            headers[name] = value
        request.body = self._body(headers)
        return request

    def _body(self, headers):
        coding = headers.get("transfer-encoding")
        length = headers.get("content-length")
        if coding is not None:
            if coding.lower() != "chunked" or length is not None:
                raise _malformed("the length of the body is ambiguous")
            return self._chunks()
        if length is None:
            return b""
        if not (length.isascii() and length.isdigit() and len(length) < 20):
            raise _malformed("Content-Length is not a number")
        return self._exactly(_bounded(int(length)))

    def _chunks(self):
        chunks = []
        total = 0
        while True:
            digits = self._until(b"\r\n", 1024).partition(b";")[0].rstrip(b" \t")
            if not 0 < len(digits) < 16 or digits.strip(b"0123456789abcdefABCDEF"):
                raise _malformed("a chunk has no valid size")
            size = int(digits, 16)
            if size == 0:
                break
            total = _bounded(total + size)
            chunks.append(self._exactly(size))
            if self._exactly(2) != b"\r\n":
                raise _malformed("a chunk is longer than its size")
        trailers = 0
        while line := self._until(b"\r\n", MAX_HEAD):
            trailers += len(line)
            if trailers > MAX_HEAD:
                raise _malformed("the trailers are too long")
        return b"".join(chunks)

    def _until(self, mark, limit):
        seen = self._at
        while (end := self._buffer.find(mark, seen)) < 0:
            if len(self._buffer) - self._at > limit:
                raise Refused(431, "invalid_request", "the head is longer than %d bytes" % limit)
            if self._at:
                self._buffer, self._at = self._buffer[self._at :], 0
            seen = max(0, len(self._buffer) - len(mark) + 1)
            self._buffer += self._receive(65536)
        found = self._buffer[self._at : end]
        self._at = end + len(mark)
        return found

    def _exactly(self, count):
        found = self._buffer[self._at : self._at + count]
        self._at += len(found)
        if len(found) == count:
            return found
        parts = [found]
        missing = count - len(found)
        while missing:
            part = self._receive(min(missing, 1 << 20))
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def _receive(self, limit):
        data = self.sock.recv(limit)
        if not data:
            raise Closed
        return data

    def write(self, method, status, headers, body, close):
        """Sends an answer. Its body is left out where HTTP has none."""
        lines = ["HTTP/1.1 %d " % status]
        lines += ["%s: %s" % field for field in headers]
        if status == 204 or status == 304:
            body = b""
        else:
            lines.append("Content-Length: %d" % len(body))
        if close:
            lines.append("Connection: close")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        if method == "HEAD":
            body = b""
        if len(body) < 65536:
            self.sock.sendall(head + body)
        else:
            self.sock.sendall(head)
            self.sock.sendall(body)


def _malformed(message):
    return Refused(400, "invalid_request", message)


def _bounded(size):
    if size > MAX_BODY:
        raise Refused(413, "body_too_large", "the body is longer than %d bytes" % MAX_BODY)
    return size
