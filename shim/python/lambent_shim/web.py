"""What a fetch handler is given and gives: Request, Response and their Headers."""

from .wire import check_field, BadResponse


class Headers:
    """Header fields: names in any case, repeated ones kept apart."""

    def __init__(self, fields=()):
        self._fields = []
        for name, value in fields.items() if isinstance(fields, (dict, Headers)) else fields:
            self.append(name, value)

    def append(self, name, value):
        """Adds a field beside those of the same name."""
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError("a header is of two strings, not %.80r" % ((name, value),))
        check_field(name, value)
        self._fields.append((name.lower(), value))

    def get(self, name, default=None):
        """Gives the values of a name, joined by commas."""
        return ", ".join(self.all(name)) if name in self else default

    def all(self, name):
        """Gives the values of a name one by one."""
        return [value for own, value in self._fields if own == name.lower()]

    def items(self):
        """Gives all fields, names in lower case."""
        return list(self._fields)

    def __contains__(self, name):
        return any(own == name.lower() for own, _ in self._fields)

    def __getitem__(self, name):
        if name not in self:
            raise KeyError(name)
        return self.get(name)

    def __setitem__(self, name, value):
        self._fields = [field for field in self._fields if field[0] != name.lower()]
        self.append(name, value)

    def __iter__(self):
        return iter(dict(self._fields))

    def __repr__(self):
        return "Headers(%r)" % self._fields


class Request:
    """A request: method, url, path, headers, and the body, which can be read once."""

    def __init__(self, method, url, path, headers, read):
        self.method = method
        self.url = url
        self.path = path  # percent-decoded
        self.headers = headers
        self._read = read

    def __aiter__(self):
        return self

    async def __anext__(self):
        if piece := await self._read():
            return piece
        raise StopAsyncIteration

    @property
    def body(self):
        """The body as it comes, to be iterated over with async for."""
        return self

    async def bytes(self):
        """Gives what is left of the body."""
        return b"".join([piece async for piece in self])

    async def text(self):
        """Gives what is left of the body as text in UTF-8."""
        return (await self.bytes()).decode("utf-8")

    async def json(self):
        """Gives what the body says in JSON."""
        import json

        return json.loads(await self.bytes())


class Response:
    """An answer. Its body is a str, bytes, an async iterator over bytes or str, or None."""

    def __init__(self, body=None, status=200, headers=()):
        if not isinstance(status, int) or isinstance(status, bool) or not 200 <= status <= 599:
            raise BadResponse("the status is %.40r, not an integer from 200 to 599" % (status,))
        if body is not None and not isinstance(body, (str, bytes)) and not hasattr(body, "__aiter__"):
            raise BadResponse("the body is a %s, not str, bytes, an async iterator or None" % type(body).__name__)
        self.status = status
        self.headers = Headers(headers)
        self.body = body
        if isinstance(body, str) and "content-type" not in self.headers:
            self.headers["content-type"] = "text/plain; charset=utf-8"

    @classmethod
    def json(cls, value, status=200, headers=()):
        """Gives an answer of JSON."""
        import json

        response = cls(json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii"), status, headers)
        if "content-type" not in response.headers:
            response.headers["content-type"] = "application/json"
        return response
