import base64
import os
import signal
import socket
import struct

from harness import LIMIT, Answer, ShimTest

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # the example of RFC 6455, section 1.3
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

ECHO = """
async def app(scope, receive, send):
    if scope["type"] != "websocket": raise ValueError(scope["type"])
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept", "subprotocol": (scope["subprotocols"] or [None])[-1], "headers": [(b"x-a", b"b")]})
    while True:
        message = await receive()
        print(message["type"], message.get("code"), message.get("reason"), flush=True)
        if message["type"] == "websocket.disconnect": return
        if message.get("text") == "close": await send({"type": "websocket.close", "code": 4001, "reason": "as asked"})
        elif message.get("text") == "cut": await send({"type": "websocket.close", "reason": "é" * 100})
        elif message.get("text") == "bad": await send({"type": "websocket.close", "code": 65536})
        elif message.get("text") == "raise": raise ValueError("as asked")
        elif message.get("text") == "return": return
        elif message.get("text") == "scope": await send({"type": "websocket.send", "text": scope["scheme"] + " " + scope["path"]})
        else: await send({"type": "websocket.send", "text": message.get("text"), "bytes": message.get("bytes")})
"""


def frame(opcode, payload, final=True, mask=b"\x01\x02\x03\x04", bits=0):
    size = len(payload)
    head = bytes([(0x80 if final else 0) | bits | opcode])
    flag = 0x80 if mask else 0
    if size < 126:
        head += bytes([flag | size])
    elif size < 65536:
        head += bytes([flag | 126]) + struct.pack(">H", size)
    else:
        head += bytes([flag | 127]) + struct.pack(">Q", size)
    return head + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload)) if mask else head + payload


class Peer:
    """The other side of a WebSocket."""

    def __init__(self, shim, headers=(), target="/ws", version="13", key=KEY):
        self.c = shim.connect()
        lines = ["GET %s HTTP/1.1" % target, "Host: h", "Connection: Upgrade", "Upgrade: websocket"]
        lines += ["Lambent-Invocation: i", "Lambent-Trigger: http", "Lambent-Deadline: 9999999999999"]
        lines += ["Sec-WebSocket-Version: " + version, "Sec-WebSocket-Key: " + key, *headers]
        self.c.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        self.rest = b""

    def head(self):
        while b"\r\n\r\n" not in self.rest:
            self.rest += self.c.recv(4096)
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        return head.decode().split("\r\n")

    def take(self, count):
        while len(self.rest) < count:
            data = self.c.recv(65536)
            if not data:
                raise EOFError
            self.rest += data
        found, self.rest = self.rest[:count], self.rest[count:]
        return found

    def frame(self):
        first, size = self.take(2)
        if size == 126:
            (size,) = struct.unpack(">H", self.take(2))
        elif size == 127:
            (size,) = struct.unpack(">Q", self.take(8))
        return first, self.take(size)

    def closed(self):
        """Reads up to the close frame and the end; gives the code and the reason."""
        while True:
            first, payload = self.frame()
            if first == 0x88:
                break
        code = struct.unpack(">H", payload[:2])[0]
        self.c.sendall(frame(8, payload[:2]))
        while self.c.recv(4096):
            pass
        return code, payload[2:].decode()


class WebSocket(ShimTest):
    def peer(self, shim, **kwargs):
        peer = Peer(shim, **kwargs)
        self.addCleanup(peer.c.close)
        return peer

    def open(self, shim, **kwargs):
        peer = self.peer(shim, **kwargs)
        self.assertEqual(peer.head()[0], "HTTP/1.1 101 ")
        return peer

    def app(self, code=ECHO):
        return self.shim(code, handler="main:app", concurrency=100)

    def test_handshake(self):
        peer = self.peer(self.app(), headers=["Sec-WebSocket-Protocol: one, two"])
        head = peer.head()
        self.assertEqual(
            head,
            ["HTTP/1.1 101 ", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Accept: " + ACCEPT,
             "Sec-WebSocket-Protocol: two", "x-a: b"],
        )  # fmt: skip

    def test_messages(self):
        peer = self.open(self.app(), headers=["X-Forwarded-Proto: https"])
        peer.c.sendall(frame(1, b"scope"))
        self.assertEqual(peer.frame(), (0x81, b"wss /ws"))
        for size in (0, 1, 125, 126, 65535, 65536, 1_000_000):
            payload = bytes(i % 251 for i in range(size))
            peer.c.sendall(frame(2, payload))
            self.assertEqual(peer.frame(), (0x82, payload))
        peer.c.sendall(frame(1, "é😀".encode()))
        self.assertEqual(peer.frame(), (0x81, "é😀".encode()))

    def test_fragments_and_pings(self):
        peer = self.open(self.app())
        raw = frame(1, "é".encode()[:1], final=False) + frame(9, b"ping") + frame(0, b"", final=False)
        raw += frame(10, b"unasked") + frame(0, "é".encode()[1:])
        for byte in raw:
            peer.c.sendall(bytes([byte]))
        self.assertEqual(peer.frame(), (0x8A, b"ping"))
        self.assertEqual(peer.frame(), (0x81, "é".encode()))

    def test_the_peer_closes(self):
        cases = [
            (frame(8, b""), 1000, "1005 "),
            (frame(8, struct.pack(">H", 1000) + b"bye"), 1000, "1000 bye"),
            (frame(8, struct.pack(">H", 4999)), 4999, "4999 "),
        ]
        shim = self.app()
        for raw, code, told in cases:
            peer = self.open(shim)
            peer.c.sendall(raw + frame(1, b"too late"))
            self.assertEqual(peer.frame(), (0x88, struct.pack(">H", code)))
            self.assertEqual(peer.c.recv(1), b"")
            shim.hear(shim.stdout, "websocket.disconnect %s\n" % told)

    def test_the_app_closes(self):
        shim = self.app()
        cases = [
            (b"close", (4001, "as asked")),
            (b"cut", (1000, "é" * 61)),
            (b"bad", (1011, "")),
            (b"raise", (1011, "")),
            (b"return", (1000, "")),
        ]
        for text, want in cases:
            peer = self.open(shim)
            peer.c.sendall(frame(1, text))
            self.assertEqual(peer.closed(), want)
        self.assertIn("the close code is 65536", shim.hear(shim.stderr, "ValueError: as asked"))

    def test_violations(self):
        cases = [
            (frame(1, b"x", mask=b""), 1002, "not masked"),
            (frame(1, b"x", bits=0x40), 1002, "unknown bits"),
            (frame(3, b"x"), 1002, "unknown bits"),
            (frame(11, b"x"), 1002, "unknown bits"),
            (frame(0, b"x"), 1002, "out of place"),
            (frame(1, b"x", final=False) + frame(1, b"y"), 1002, "out of place"),
            (frame(9, b"x", final=False), 1002, "in parts"),
            (frame(9, b"x" * 126), 1002, "too long"),
            (frame(8, b"x"), 1002, "no valid code"),
            (frame(8, struct.pack(">H", 1005)), 1002, "no valid code"),
            (frame(8, struct.pack(">H", 2999)), 1002, "no valid code"),
            (frame(8, struct.pack(">H", 1000) + b"\xff"), 1007, "not UTF-8"),
            (frame(1, b"\xff"), 1007, "not UTF-8"),
            (frame(1, b"\xed\xa0\x80"), 1007, "not UTF-8"),
            (b"\x82\xff" + struct.pack(">Q", (16 << 20) + 1), 1009, "longer than"),
            (b"\x82\xff" + b"\xff" * 8, 1009, "longer than"),
            (frame(2, b"x", final=False) + b"\x80\xff" + struct.pack(">Q", 16 << 20), 1009, "longer than"),
        ]
        shim = self.app()
        for raw, code, part in cases:
            with self.subTest(raw[:20]):
                peer = self.open(shim)
                peer.c.sendall(raw)
                got, reason = peer.closed()
                self.assertEqual(got, code)
                self.assertIn(part, reason)

    def test_the_connection_breaks(self):
        shim = self.app()
        for half in (True, False):
            peer = self.open(shim)
            peer.c.sendall(frame(1, b"x"))
            peer.frame()
            peer.c.shutdown(1) if half else peer.c.close()
            shim.hear(shim.stdout, "websocket.disconnect 1006")
        self.assertEqual(shim.stderr(), "")

    def test_refusals(self):
        app = "async def app(scope, receive, send):\n    assert scope['type'] != 'lifespan'\n"
        peer = self.peer(self.app(app + "    await send({'type': 'websocket.close'})"))
        self.assertEqual(Answer(peer.c).status, 403)
        peer = self.peer(
            self.app(
                app + "    await send({'type': 'websocket.http.response.start', 'status': 401, 'headers': [(b'a', b'b')]})\n"
                "    await send({'type': 'websocket.http.response.body', 'body': b'who?'})"
            )
        )
        answer = Answer(peer.c)
        self.assertEqual((answer.status, answer.headers["a"], answer.body), (401, "b", b"who?"))
        for code, error, part in (
            ("1/0", "handler_error", "ZeroDivisionError"),
            ("pass", "bad_response", "without an answer"),
            ("await send({'type': 'websocket.send', 'text': ''})", "bad_response", "not what may come now"),
            ("await send({'type': 'websocket.accept', 'subprotocol': 'x'})", "bad_response", "was not offered"),
        ):
            self.check_error(Answer(self.peer(self.app(app + "    " + code)).c), error, part)

    def test_what_is_no_websocket_is_http(self):
        shim = self.app()
        for options in ({"version": "8"}, {"key": "short"}, {"key": base64.b64encode(b"x" * 15).decode()}, {"key": "*" * 24}):
            self.check_error(Answer(self.peer(shim, **options).c), "handler_error", "ValueError: http")

    def test_messages_wait_for_the_app(self):
        shim = self.app(
            "import os, asyncio, resource\n"
            "async def app(scope, receive, send):\n"
            "    assert scope['type'] == 'websocket'\n"
            "    await send({'type': 'websocket.accept'})\n"
            "    await receive()\n"
            "    path = (await receive())['text']\n"
            "    while not os.path.exists(path): await asyncio.sleep(0.001)\n"
            "    for size in range(100): assert len((await receive())['bytes']) == 1 << 20\n"
            "    await send({'type': 'websocket.send', 'text': str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)})\n"
        )
        path = os.path.join(shim.sockets, "go")
        peer = self.open(shim)
        peer.c.sendall(frame(1, path.encode()))
        big = frame(2, b"x" * (1 << 20), mask=b"\0\0\0\0")
        peer.c.setblocking(False)
        sent = 0
        try:
            while sent < 100 * len(big):
                sent += peer.c.send((big * 2)[sent % len(big) :][: len(big)])
        except BlockingIOError:
            pass
        self.assertLess(sent, 30 << 20)
        peer.c.settimeout(LIMIT)
        open(path, "w").close()
        at = sent % len(big)
        peer.c.sendall(big[at:] if at else b"")
        for _ in range(100 - -(-sent // len(big))):
            peer.c.sendall(big)
        self.assertLess(int(peer.frame()[1]), 100 << 10)  # KiB

    def test_empty_messages_wait_for_the_app(self):
        shim = self.app(
            "import os, asyncio\n"
            "async def app(scope, receive, send):\n"
            "    assert scope['type'] == 'websocket'\n"
            "    await send({'type': 'websocket.accept'})\n"
            "    await receive()\n"
            "    path = (await receive())['text']\n"
            "    while not os.path.exists(path): await asyncio.sleep(0.001)\n"
            "    count = 0\n"
            "    while (await receive()).get('bytes') == b'': count += 1\n"
            "    await send({'type': 'websocket.send', 'text': str(count)})\n"
        )
        path = os.path.join(shim.sockets, "go")
        peer = self.open(shim)
        peer.c.sendall(frame(1, path.encode()))
        empty = frame(2, b"")
        raw = empty * 500_000
        peer.c.settimeout(0.2)  # so long without a read, and the shim reads no more
        sent = 0
        try:
            while sent < len(raw):
                sent += peer.c.send(raw[sent : sent + 65536])
        except socket.timeout:
            pass
        self.assertLess(sent, 2 << 20)
        peer.c.settimeout(LIMIT)
        open(path, "w").close()
        count = -(-sent // len(empty))
        peer.c.sendall(raw[sent : count * len(empty)] + frame(1, b"end"))
        self.assertEqual(int(peer.frame()[1]), count)

    def test_tiny_fragments_take_no_more_than_their_bytes(self):
        shim = self.app(
            "import resource\n"
            "def used(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "async def app(scope, receive, send):\n"
            "    assert scope['type'] == 'websocket'\n"
            "    await send({'type': 'websocket.accept'})\n"
            "    await receive()\n"
            "    before = used()\n"
            "    assert len((await receive())['bytes']) == 400_000\n"
            "    await send({'type': 'websocket.send', 'text': str(used() - before)})\n"
        )
        peer = self.open(shim)
        peer.c.sendall(frame(2, b"", final=False) + frame(0, b"xy", final=False) * 200_000 + frame(0, b""))
        self.assertLess(int(peer.frame()[1]), 5 << 10)  # KiB

    def test_of_many_pings_the_newest_is_answered(self):
        shim = self.app()
        peer = self.open(shim)
        for i in range(20_000):
            peer.c.sendall(frame(9, b"%0125d" % i))
        peer.c.sendall(frame(1, b"after"))
        count = 0
        while (got := peer.frame()) != (0x81, b"after"):
            count, last = count + 1, got
        self.assertLess(count, 10_000)
        self.assertEqual(peer.frame() if int(last[1]) < 19_999 else last, (0x8A, b"%0125d" % 19_999))

    def test_messages_that_nobody_takes_do_not_hide_the_close(self):
        shim = self.app(
            "async def app(scope, receive, send):\n"
            "    assert scope['type'] == 'websocket'\n"
            "    await send({'type': 'websocket.accept'})\n"
            "    print((await receive()), await receive(), flush=True)\n"
        )
        peer = self.open(shim)
        peer.c.sendall(frame(2, b"x" * 100) * 50_000)
        self.assertEqual(peer.closed(), (1000, ""))

    def test_a_stop_says_to_come_again(self):
        shim = self.app()
        peer = self.open(shim)
        shim.process.send_signal(signal.SIGTERM)
        self.assertEqual(peer.closed(), (1012, ""))
        self.assertEqual(shim.process.wait(LIMIT), 0)
        self.assertIn("websocket.disconnect 1012", shim.stdout())
