import os
import signal

from harness import LIMIT, Answer, ShimTest, request

SHOW = """
import json
async def app(scope, receive, send):
    assert scope["type"] == "http"
    body = b""
    while True:
        message = await receive()
        body += message["body"]
        if not message["more_body"]: break
    scope["body"] = body
    told = json.dumps(scope, default=lambda b: b.decode("latin-1")).encode()
    await send({"type": "http.response.start", "status": 201, "headers": [(b"X-Many", b"a"), (b"x-many", b"b"),
        (b"connection", b"x"), (b"lambent-error", b"internal")]})
    await send({"type": "http.response.body", "body": told})
"""

START = "    await send({'type': 'http.response.start', 'status': 200, 'headers': %s})\n"
BODY = "    await send({'type': 'http.response.body', 'body': %s, 'more_body': %s})\n"


def app(code, before=""):
    return "import asyncio\n%s\nasync def app(scope, receive, send):\n    assert scope['type'] == 'http'\n%s" % (before, code)


class AppTest(ShimTest):
    def app(self, code, **kwargs):
        kwargs.setdefault("concurrency", 100)
        return self.shim(code, handler="main:app", **kwargs)

    def http(self, shim, **kwargs):
        return shim.call(trigger="http", **kwargs)


class ASGI(AppTest):
    def test_scope(self):
        shim = self.app(SHOW)
        headers = [
            ("Host", "f.localhost:8080"),
            ("X-Forwarded-For", "203.0.113.9, 198.51.100.2"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Prefix", "/fn/f"),
            ("Many", "1"),
            ("Many", "2"),
        ]
        answer = self.http(shim, target="/a%20b/%C3%A9?q=%31", headers=headers, chunks=[b"one ", b"two"])
        self.assertEqual((answer.status, answer.headers.get_all("x-many")), (201, ["a", "b"]))
        self.assertEqual((answer.error, answer.headers["connection"]), (None, None))
        scope = answer.json()
        self.assertEqual([f for f in scope.pop("headers") if f[0] != "transfer-encoding"],
                         [[k.lower(), v] for k, v in headers])  # fmt: skip
        self.assertEqual(
            scope,
            {
                "type": "http",
                "asgi": {"version": "3.0", "spec_version": "2.3"},
                "http_version": "1.1",
                "method": "POST",
                "scheme": "https",
                "path": "/fn/f/a b/é",
                "raw_path": "/fn/f/a%20b/%C3%A9",
                "query_string": "q=%31",
                "root_path": "/fn/f",
                "client": ["198.51.100.2", 0],
                "server": ["f.localhost", 8080],
                "state": {},
                "extensions": {"http.response.trailers": {}},
                "body": "one two",
            },
        )
        scope = self.http(shim, method="GET", headers=[("Host", "[::1]")]).json()
        self.assertEqual((scope["server"], scope["client"], scope["body"]), (["[::1]", 80], None, ""))

    def test_bodies_stream_both_ways(self):
        shim = self.app(app(START % "[]" + (
            "    while (m := await receive())['more_body']:\n"
            "        await send({'type': 'http.response.body', 'body': m['body'].upper(), 'more_body': True})\n"
        ) + BODY % ("m['body'].upper()", "False")))  # fmt: skip
        with shim.connect() as c:
            c.sendall(request(trigger="http", chunks=[])[: -len("0\r\n\r\n")])
            got = b""
            for i in range(5):
                c.sendall(b"5\r\nnext%d\r\n" % i)
                while not got.endswith(b"NEXT%d\r\n" % i):
                    got += c.recv(4096)
            c.sendall(b"0\r\n\r\n")
            while not got.endswith(b"\r\n0\r\n\r\n"):
                got += c.recv(4096)
            c.sendall(request("last", trigger="http"))  # the connection lives on
            self.assertEqual(Answer(c).body, b"LAST")

    def test_large_bodies_wait_for_the_app_and_for_the_caller(self):
        shim = self.app(
            "import resource, asyncio\n"
            "async def app(scope, receive, send):\n"
            "    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
            "    size, more = 0, True\n"
            "    while more:\n"
            "        m = await receive()\n"
            "        size, more = size + len(m['body']), m['more_body']\n"
            "        await asyncio.sleep(0)\n"
            "    for _ in range(1000):\n"
            "        await send({'type': 'http.response.body', 'body': b'x' * 50_000, 'more_body': True})\n"
            "    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "    await send({'type': 'http.response.body', 'body': b'%d %d' % (size, peak)})\n"
        )
        answer = self.http(shim, body=b"y" * 50_000_000)
        size, peak = answer.body[50_000_000:].split()
        self.assertEqual(int(size), 50_000_000)
        self.assertLess(int(peak), 60 << 10)  # KiB

    def test_many_at_a_time(self):
        shim = self.app(
            app(
                "    waiting.append(1)\n    if len(waiting) == 20: go.set()\n    await go.wait()\n" + START % "[]" + BODY % ("b'met'", False),
                "waiting, go = [], asyncio.Event()",
            )
        )
        connections = [shim.connect() for _ in range(20)]
        for c in connections:
            c.sendall(request(trigger="http"))
        for c in connections:
            self.assertEqual(Answer(c).body, b"met")
            c.close()

    def test_framing(self):
        cases = [
            (START % "[]" + BODY % ("b'x'", False), "GET", b"x", "1"),
            (START % "[]" + BODY % ("b'x'", True) + BODY % ("b'y'", False), "GET", b"xy", None),
            (START % "[(b'content-length', b'2')]" + BODY % ("b'x'", True) + BODY % ("b'y'", False), "GET", b"xy", "2"),
            (START % "[(b'content-length', b'2')]" + BODY % ("b''", False), "HEAD", b"", "2"),
            (START.replace("200", "204") % "[]" + BODY % ("b''", False), "GET", b"", None),
            (START.replace("200", "304") % "[]" + BODY % ("b''", False), "GET", b"", None),
        ]
        for code, method, body, length in cases:
            with self.subTest(code):
                answer = self.http(self.app(app(code)), method=method)
                self.assertEqual((answer.body, answer.headers["Content-Length"]), (body, length))

    def test_trailers(self):
        shim = self.app(app(
            START.replace("})", ", 'trailers': True})") % "[(b'trailer', b'x-sum')]" + BODY % ("b'x'", False)
            + "    await send({'type': 'http.response.trailers', 'headers': [(b'x-sum', b'1')]})\n"))  # fmt: skip
        with shim.connect() as c:
            c.sendall(request(trigger="http"))
            got = b""
            while not got.endswith(b"x-sum: 1\r\n\r\n"):
                got += c.recv(4096)
            self.assertIn(b"\r\ntrailer: x-sum\r\n", got)

    def test_failures(self):
        cases = [
            ("    1/0", "handler_error", "ZeroDivisionError"),
            ("    raise SystemExit(3)", "handler_error", "called sys.exit(3)"),
            ("    raise asyncio.CancelledError", "handler_error", "CancelledError"),
            ("    pass", "bad_response", "without an answer"),
            (START % "[]", "bad_response", "without an answer"),
            (BODY % ("b''", False), "bad_response", "http.response.body before http.response.start"),
            (START % "[]" + START % "[]", "bad_response", "second time"),
            (START.replace("200", "'200'") % "[]", "bad_response", "the status is '200'"),
            (START.replace("200", "101") % "[]", "bad_response", "the status is 101"),
            (START % "[('a', 'b')]", "bad_response", "not of bytes"),
            (START % "[(b'a', b'b\\r\\nc: d')]", "bad_response", "line break"),
            (START % "[(b'a b', b'')]", "bad_response", "not a valid header name"),
            (START % "[(b'content-length', b'1')]" + BODY % ("b''", False), "bad_response", "shorter"),
            (START % "[(b'content-length', b'x')]", "bad_response", "not a number"),
            ("    await send({'type': 'tea'})", "bad_response", "tea"),
        ]
        for code, error, part in cases:
            with self.subTest(code):
                shim = self.app(app(code))
                for _ in range(2):
                    told = self.check_error(self.http(shim), error, part)
                self.assertIn(told["trace"][-1] if told["trace"] else told["message"], shim.stderr())

    def test_a_failure_within_the_answer_breaks_it_off(self):
        shim = self.app(app(START % "[]" + BODY % ("b'x'", True) + "    1/0"))
        with shim.connect() as c:
            c.sendall(request(trigger="http"))
            got = b""
            while piece := c.recv(4096):
                got += piece
        self.assertTrue(got.endswith(b"1\r\nx\r\n"), got)
        shim.hear(shim.stderr, "ZeroDivisionError")

    def test_callers_that_leave(self):
        shim = self.app(
            app(
                "    if scope['path'] == '/writes':\n"
                "        await send({'type': 'http.response.start', 'status': 200})\n"
                "        try:\n"
                "            while True:\n"
                "                await send({'type': 'http.response.body', 'body': b'x', 'more_body': True})\n"
                "                await asyncio.sleep(0)\n"
                "        except OSError:\n"
                "            left.append('OSError')\n"
                "            raise\n"
                "    if scope['path'] != '/':\n"
                "        await receive()\n"
                "        left.append((await receive())['type'])\n" + START % "[]" + BODY % ("repr(left).encode()", False),
                "left = []",
            )
        )
        for path in ("/told", "/writes", "/broken"):
            with shim.connect() as c:
                raw = request(trigger="http", target=path, chunks=[b"x"] if path == "/broken" else None)
                c.sendall(raw[:-3] if path == "/broken" else raw)
                if path == "/writes":
                    c.recv(10)
                c.shutdown(1)
                while c.recv(65536):
                    pass
        self.assertEqual(self.http(shim).body, b"['http.disconnect', 'OSError', 'http.disconnect']")
        self.assertEqual(shim.stderr(), "")

    def test_what_goes_on_after_the_answer(self):
        shim = self.app(app(START % "[]" + BODY % ("str(done).encode()", False) + "    await asyncio.sleep(0.05)\n    done.append(1)\n", "done = []"))
        with shim.connect() as c:
            for _ in range(2):  # the connection does not wait for it
                c.sendall(request(trigger="http"))
                self.assertEqual(Answer(c).body, b"[]")
        shim.process.send_signal(signal.SIGTERM)
        self.assertEqual(shim.process.wait(LIMIT), 0)

    def test_refused_requests(self):
        shim = self.app(SHOW)
        for raw in (b"POST / HTTP/1.0\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"a: " + b"x" * 70000 + b"\r\n\r\n"):
            with shim.connect() as c:
                c.sendall(raw)
                self.check_error(Answer(c), "invalid_request")
                self.assertEqual(c.recv(1), b"")


class Lifespan(AppTest):
    LIFESPAN = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        print((await receive())["type"])
        scope["state"]["pool"] = "p"
        await send({"type": "lifespan.startup.%s", "message": "no database"})
        print((await receive())["type"])
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": scope["state"]["pool"].encode()})
    scope["state"]["pool"] = "changed"
"""

    def test_startup_state_and_shutdown(self):
        shim = self.app(self.LIFESPAN % "complete")
        for _ in range(2):
            self.assertEqual(self.http(shim).body, b"p")
        shim.process.send_signal(signal.SIGTERM)
        self.assertEqual(shim.process.wait(LIMIT), 0)
        self.assertEqual(shim.stdout(), "lifespan.startup\nlifespan.shutdown\n")

    def test_a_failed_startup_is_a_failed_start(self):
        shim = self.start({"main.py": self.LIFESPAN % "failed"}, handler="main:app", concurrency=100)
        self.check_error(shim.ready(), "start_failed", "StartupFailed: no database")
        self.assertEqual(shim.process.wait(LIMIT), 1)

    def test_requests_in_hand_are_finished(self):
        shim = self.app(app("    open(scope['path'], 'w').close()\n    import os\n    while os.path.exists(scope['path']): await asyncio.sleep(0.001)\n"
                            + START % "[]" + BODY % ("b'done'", False)))  # fmt: skip
        path = os.path.join(shim.sockets, "busy")
        with shim.connect() as idle, shim.connect() as c:
            idle.sendall(b"OPTIONS * HTTP/1.1\r\n\r\n")
            Answer(idle)
            c.sendall(request(trigger="http", target=path))
            while not os.path.exists(path):
                self.assertIsNone(shim.process.poll())
            shim.process.send_signal(signal.SIGTERM)
            self.assertEqual(idle.recv(1), b"")
            os.remove(path)
            self.assertEqual(Answer(c).body, b"done")
        self.assertEqual(shim.process.wait(LIMIT), 0)
