"""WebSockets, RFC 6455: the frames, and the ASGI scope over them."""

import asyncio
from base64 import b64decode, b64encode
from collections import deque
from hashlib import sha1

from . import report
from .aio import Left
from .asgi import Call, fields_of
from .server import flush
from .wire import BadResponse

MAX_MESSAGE = 16 << 20
_MUCH = 256 << 10  # bytes of messages that wait for the application before the sender must
_EACH = 512  # bytes that a message takes beside its payload, about
_PATIENCE = 5  # seconds for the peer to answer a close

_CONTINUE, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10
_NORMAL, _NO_CODE, _LOST, _FAILED, _RESTART = 1000, 1005, 1006, 1011, 1012


class Violation(Exception):
    """The peer breaks the protocol; the connection is closed with the code."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class Reader:
    """Takes frames apart."""

    def __init__(self):
        self._buffer = bytearray()
        self._opcode = None  # of the message in parts
        self._message = bytearray()  # and not a list: the parts may be tiny, and many

    def feed(self, data):
        """Takes what came."""
        self._buffer += data

    def next(self):
        """Gives the next message or control frame as (opcode, payload), None when it has not come whole; raises
        Violation."""
        while frame := self._frame():
            final, opcode, payload = frame
            if opcode >= _CLOSE:
                return opcode, payload
            if (opcode == _CONTINUE) == (self._opcode is None):
                raise Violation(1002, "a fragment is out of place")
            if opcode != _CONTINUE:
                self._opcode = opcode
            self._message += payload
            if final:
                opcode, message = self._opcode, self._message
                self._opcode, self._message = None, bytearray()
                return opcode, _decode(message) if opcode == _TEXT else bytes(message)
        return None

    def _frame(self):
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        first, length = buffer[0], buffer[1] & 0x7F
        opcode = first & 0x0F
        if first & 0x70 or opcode not in (_CONTINUE, _TEXT, _BINARY, _CLOSE, _PING, _PONG):
            raise Violation(1002, "a frame has unknown bits")
        if not buffer[1] & 0x80:
            raise Violation(1002, "a frame is not masked")
        if opcode >= _CLOSE and (length > 125 or not first & 0x80):
            raise Violation(1002, "a control frame is too long or in parts")
        at = 2
        if length > 125:
            at = 4 if length == 126 else 10
            if len(buffer) < at:
                return None
            length = int.from_bytes(buffer[2:at], "big")
        if length + len(self._message) > MAX_MESSAGE:
            raise Violation(1009, "a message is longer than %d bytes" % MAX_MESSAGE)
        end = at + 4 + length
        if len(buffer) < end:
            return None
        payload = _unmask(buffer[at : at + 4], buffer[at + 4 : end])
        del buffer[:end]
        return first & 0x80, opcode, payload


def _unmask(mask, payload):
    count = len(payload)
    key = (bytes(mask) * (count // 4 + 1))[:count]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(key, "little")).to_bytes(count, "little")


def _decode(text):
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        raise Violation(1007, "a text is not UTF-8") from None


def frame(opcode, payload):
    """Gives a frame as a server sends it."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, size))
    elif size < 1 << 16:
        head = bytes((0x80 | opcode, 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big")
    return head + payload


def closing(payload):
    """Gives the code and reason of a close frame's payload; raises Violation."""
    if not payload:
        return _NO_CODE, ""
    code = int.from_bytes(payload[:2], "big")
    if len(payload) < 2 or not _may_be_sent(code):
        raise Violation(1002, "a close has no valid code")
    return code, _decode(payload[2:])


def _may_be_sent(code):
    return 1000 <= code <= 1014 and code not in (1004, 1005, 1006) or 3000 <= code <= 4999


def offer(exchange):
    """Tells whether the request can be answered by a WebSocket. Where only its version is wrong, it is refused."""
    headers = exchange.request.headers
    try:
        key = b64decode(headers.get("sec-websocket-key", ""), validate=True)
    except ValueError:
        key = b""
    if exchange.request.method != "GET" or len(key) != 16 or exchange.request.coming:
        return False
    return headers.get("sec-websocket-version") == "13"


class Session:
    """One WebSocket: what the application receives and sends, and the frames below it."""

    def __init__(self, exchange, scope):
        self._exchange = exchange
        self._connection = exchange.connection
        self._scope = scope
        self._denial = None  # the Call, when the application answers by HTTP
        self._reader = Reader()
        self._inbox = deque([{"type": "websocket.connect"}])
        self._waiting = 0  # bytes in the inbox
        self._ping = None  # the newest that waits for its answer
        self._news = asyncio.Event()
        self._open = False  # messages may be sent
        self._sent_close = False
        self._deaf = False  # what still comes is not looked at
        self._over = False  # the application was, or will be, told of the end
        self._gone = asyncio.Event()  # the connection is no more

    async def run(self, app):
        """Serves the application until both it and the connection have ended."""
        try:
            await app(self._scope, self.receive, self.send)
        except BaseException as error:
            if not self._connection.tunnel:
                raise
            if not isinstance(error, Left):
                report.log("\n".join(report.describe(error)[2]))
            self._close(_FAILED, "")
        else:
            if not self._connection.tunnel:
                return  # who called checks for the answer
            self._close(_NORMAL, "")
        if not self._gone.is_set():
            handle = asyncio.get_running_loop().call_later(_PATIENCE, self._connection.transport.abort)
            await self._gone.wait()
            handle.cancel()

    async def receive(self):
        """Gives the next event."""
        while not self._inbox:
            if self._exchange.left and not self._connection.tunnel:
                return {"type": "websocket.disconnect", "code": _LOST, "reason": ""}
            if self._connection.tunnel:
                self._news.clear()
                await self._news.wait()
            else:
                await self._exchange.news()
        message = self._inbox.popleft()
        if message["type"] == "websocket.receive":
            self._waiting -= len(message.get("text") or message.get("bytes") or "") + _EACH
            self._go_on()
        elif message["type"] == "websocket.disconnect":
            self._inbox.append(message)  # whoever asks again gets it again
        return message

    async def send(self, message):
        """Takes an event."""
        kind = message["type"]
        if self._denial or kind == "websocket.http.response.start":
            self._denial = self._denial or Call(self._exchange, "websocket.http.response.")
            await self._denial.send(message)
        elif kind == "websocket.accept" and not self._connection.tunnel:
            self._accept(message)
        elif kind == "websocket.close" and not self._connection.tunnel:
            self._exchange.send(403, [], b"")
        elif kind == "websocket.close":
            self._close(message.get("code") or _NORMAL, message.get("reason") or "")
        elif kind == "websocket.send" and self._connection.tunnel:
            await self._send(message)
        else:
            raise BadResponse("%s is not what may come now" % kind)

    def _accept(self, message):
        if self._exchange.left:
            raise Left("the caller has left")
        key = self._exchange.request.headers["sec-websocket-key"]
        digest = sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode("ascii")).digest()
        accept = b64encode(digest).decode("ascii")
        fields = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept)]
        chosen = message.get("subprotocol")
        if chosen is not None:
            if chosen not in self._scope["subprotocols"]:
                raise BadResponse("the subprotocol %.40r was not offered" % (chosen,))
            fields.append(("Sec-WebSocket-Protocol", chosen))
        fields += [f for f in fields_of(message) if not f[0].lower().startswith("sec-websocket-")]
        flush()
        head = "HTTP/1.1 101 \r\n%s\r\n" % "".join("%s: %s\r\n" % field for field in fields)
        self._connection.transport.write(head.encode("latin-1"))
        self._open = True
        self._exchange.finished = True
        self._connection.switch(self)

    async def _send(self, message):
        if not self._open:
            raise Left("the WebSocket is closed")
        text = message.get("text")
        opcode, payload = (_BINARY, message.get("bytes")) if text is None else (_TEXT, text.encode("utf-8"))
        if payload is None:
            raise BadResponse("websocket.send has neither text nor bytes")
        self._connection.transport.write(frame(opcode, bytes(payload)))
        await self._connection.drain()

    def feed(self, data):
        """Takes what came from the peer."""
        if not self._deaf:
            self._reader.feed(data)
            self._go_on()

    def _go_on(self):
        """Takes as many messages as may wait for the application; the peer waits with the others."""
        try:
            while not self._deaf and self._has_room() and (found := self._reader.next()):
                self._take(*found)
        except Violation as violation:
            self._deaf = True
            self._end(violation.code, str(violation))
            self._close(violation.code, str(violation))
            # Closed at once, what the peer still sends would reset the connection under our words.
            transport = self._connection.transport
            transport.write_eof()
            asyncio.get_running_loop().call_later(_PATIENCE, transport.abort)
        if self._has_room():
            self._connection.transport.resume_reading()
        else:
            self._connection.transport.pause_reading()

    def _has_room(self):
        return self._waiting <= _MUCH or not self._open

    def _take(self, opcode, payload):
        if opcode == _CLOSE:
            self._deaf = True
            code, reason = closing(payload)
            self._end(code, reason)
            self._close(_NORMAL if code == _NO_CODE else code, "")
            self._connection.transport.close()
        elif opcode == _PING:
            self._ping = payload
            if not self._connection.full:
                self.resumed()
        elif opcode != _PONG and self._open:
            key = "text" if opcode == _TEXT else "bytes"
            self._inbox.append({"type": "websocket.receive", key: payload})
            self._waiting += len(payload) + _EACH
            self._news.set()

    def _end(self, code, reason):
        if not self._over:
            self._over = True
            self._inbox.append({"type": "websocket.disconnect", "code": code, "reason": reason})
            self._news.set()

    def _close(self, code, reason):
        if self._sent_close:
            return
        if not isinstance(code, int) or not _may_be_sent(code):
            raise BadResponse("the close code is %.40r, not one that may be sent" % (code,))
        reason = reason.encode("utf-8")[:123].decode("utf-8", "ignore").encode("utf-8")
        self._sent_close = True
        self._open = False
        self._connection.transport.write(frame(_CLOSE, code.to_bytes(2, "big") + reason))
        self._go_on()  # messages are dropped now, and so the peer's close is found behind them

    def resumed(self):
        """There is room again for what goes out. Of many pings the newest is answered: RFC 6455, section 5.5.3."""
        if self._ping is not None and self._open:
            self._connection.transport.write(frame(_PONG, self._ping))
        self._ping = None

    def eof(self):
        """The peer sends no more; gives False, which closes the connection."""
        self._end(_LOST, "")
        return False

    def lost(self):
        """The connection is no more."""
        self._open = False
        self._sent_close = True
        self._end(_LOST, "")
        self._gone.set()

    def stop(self):
        """Asks the peer to come again elsewhere: the service restarts."""
        self._end(_RESTART, "")
        self._close(_RESTART, "")
