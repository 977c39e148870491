import signal
import socket

from harness import LIMIT, Answer, ShimTest, request

IMPORT = "import asyncio\nfrom lambent import Response\n"


class Fetch(ShimTest):
    def app(self, code, handler="main:fetch", **kwargs):
        return self.shim(IMPORT + code, handler=handler, concurrency=100, **kwargs)

    def http(self, shim, **kwargs):
        return shim.call(trigger="http", **kwargs)

    def test_request(self):
        shim = self.app(
            "async def fetch(request, env, ctx):\n"
            "    return Response.json({'method': request.method, 'url': request.url, 'path': request.path,\n"
            "        'many': request.headers['MANY'], 'all': request.headers.all('many'), 'none': request.headers.get('x'),\n"
            "        'ours': [n for n in request.headers if n.startswith('lambent')], 'body': await request.json(),\n"
            "        'again': await request.text(), 'env': env['LAMBENT_FUNCTION'], 'id': ctx.aws_request_id,\n"
            "        'left': ctx.get_remaining_time_in_millis() > 1000}, status=201)\n"
        )
        headers = [("Host", "h:8080"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Prefix", "/fn/f"), ("Many", "1"), ("Many", "2")]
        answer = self.http(shim, target="/a%20b?q=1", headers=headers, chunks=[b'{"a"', b": 1}"])
        self.assertEqual((answer.status, answer.headers["content-type"]), (201, "application/json"))
        self.assertEqual(
            answer.json(),
            {"method": "POST", "url": "https://h:8080/fn/f/a%20b?q=1", "path": "/a b", "many": "1, 2", "all": ["1", "2"],
             "none": None, "ours": [], "body": {"a": 1}, "again": "", "env": "f", "id": "inv-1", "left": True},
        )  # fmt: skip

    def test_forms(self):
        cases = [
            ("async def fetch(request): return Response('x')", "main:fetch"),
            ("async def any(request, env): return Response('x')", "main:any"),
            ("async def any(request, env, ctx=None): return Response('x')", "main:any"),
            ("class App:\n  async def fetch(self, request): return Response('x')\napp = App()", "main:app"),
            ("class App:\n  async def fetch(self, request, env, ctx): return Response('x')", "main:App"),
            ("class App:\n  @staticmethod\n  async def fetch(request, env, ctx): return Response('x')", "main:App"),
        ]
        for code, handler in cases:
            with self.subTest(code):
                answer = self.http(self.app(code, handler=handler))
                self.assertEqual((answer.body, answer.headers["content-type"]), (b"x", "text/plain; charset=utf-8"))

    def test_answers(self):
        cases = [
            ("Response()", 200, b"", "0"),
            ("Response(None, 204)", 204, b"", None),
            ("Response('é')", 200, "é".encode(), "2"),
            ("Response(b'\\xff', 201, {'X-A': 'b'})", 201, b"\xff", "1"),
            ("Response(pieces(), 200, [('set-cookie', 'a=1'), ('Set-Cookie', 'b=2')])", 200, b"onetwo", None),
        ]
        for code, status, body, length in cases:
            with self.subTest(code):
                shim = self.app(
                    "async def pieces():\n  yield b'one'\n  await asyncio.sleep(0)\n  yield 'two'\nasync def fetch(request): return " + code
                )
                answer = self.http(shim)
                self.assertEqual((answer.status, answer.body, answer.headers["content-length"]), (status, body, length))
        self.assertEqual(answer.headers.get_all("set-cookie"), ["a=1", "b=2"])

    def test_failures(self):
        cases = [
            ("1/0", "handler_error", "ZeroDivisionError", False),
            ("'text'", "bad_response", "fetch gave a str, not a lambent.Response", False),
            ("Response({})", "bad_response", "the body is a dict", False),
            ("Response('', 99)", "bad_response", "the status is 99", False),
            ("Response('', 200, {'a': 1})", "handler_error", "a header is of two strings", True),
            ("Response('', 200, {'a': 'b\\n'})", "bad_response", "line break", False),
            ("await request.json()", "handler_error", "JSONDecodeError", True),
        ]
        for code, error, part, ours in cases:
            with self.subTest(code):
                self.check_error(self.http(self.app("async def fetch(request): return " + code)), error, part, ours=ours)

    def test_bodies_stream_both_ways(self):
        shim = self.app(
            "async def upper(request):\n  async for piece in request.body: yield piece.upper()\n"
            "async def fetch(request): return Response(upper(request))"
        )
        with shim.connect() as c:
            c.sendall(request(trigger="http", chunks=[])[: -len("0\r\n\r\n")])
            got = b""
            while not got.endswith(b"\r\n\r\n"):  # the head comes first
                got += c.recv(4096)
            for i in range(5):
                c.sendall(b"5\r\nnext%d\r\n" % i)
                while not got.endswith(b"NEXT%d\r\n" % i):
                    got += c.recv(4096)
            c.sendall(b"0\r\n\r\n")
            while not got.endswith(b"\r\n0\r\n\r\n"):
                got += c.recv(4096)

    def test_a_caller_that_leaves_cancels(self):
        shim = self.app(
            "told = []\n"
            "async def slow():\n"
            "  try:\n    yield b'x'\n    await asyncio.sleep(600)\n"
            "  finally: told.append('stream')\n"
            "async def fetch(request):\n"
            "  if request.path == '/told': return Response.json(told)\n"
            "  if request.path == '/stream': return Response(slow())\n"
            "  try: await asyncio.sleep(600)\n"
            "  finally: told.append('wait')\n"
        )
        for path in ("/stream", "/wait"):
            with shim.connect() as c:
                c.sendall(request(trigger="http", target=path))
                if path == "/stream":
                    c.recv(10)
                c.shutdown(1)
                while c.recv(4096):
                    pass
        self.assertEqual(self.http(shim, target="/told").json(), ["stream", "wait"])
        self.assertEqual(shim.stderr(), "")

    def test_a_caller_that_leaves_a_body_unread_cancels(self):
        shim = self.app(
            "async def fetch(request):\n"
            "  try: await asyncio.sleep(600)\n"
            "  finally: print('cancelled', flush=True)\n"
        )
        with shim.connect() as c:
            c.sendall(request(trigger="http", headers=[("Content-Length", str(4 << 20))]))
            c.settimeout(0.2)  # so long without a read, and the shim reads no more
            with self.assertRaises(socket.timeout):
                c.sendall(bytes(4 << 20))
        shim.hear(shim.stdout, "cancelled")

    def test_wait_until(self):
        shim = self.app(
            "async def later(fail):\n  await asyncio.sleep(0.05)\n  if fail: raise ValueError('late')\n  print('done')\n"
            "async def fetch(request, env, ctx):\n  ctx.wait_until(later(request.path == '/fail'))\n  return Response('now')"
        )
        for path in ("/", "/fail"):
            self.assertEqual(self.http(shim, target=path).body, b"now")
        shim.process.send_signal(signal.SIGTERM)
        self.assertEqual(shim.process.wait(LIMIT), 0)
        self.assertEqual(shim.stdout(), "done\n")
        self.assertIn("ValueError: late", shim.stderr())

    def test_a_lambent_of_the_bundle_wins(self):
        files = {"main.py": "import lambent\ndef handler(e, c): return lambent.MINE", "lambent.py": "MINE = 1"}
        shim = self.start(files)
        self.assertEqual(shim.ready().status, 204)
        self.assertEqual(shim.call().json(), 1)
        with shim.connect() as c:
            c.sendall(request())
            self.assertEqual(Answer(c).json(), 1)
