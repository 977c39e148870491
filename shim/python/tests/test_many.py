import json
import os
import signal

from harness import LIMIT, Answer, ShimTest, request


class Many(ShimTest):
    def meet(self, shim, count):
        connections = [shim.connect() for _ in range(count)]
        for i, c in enumerate(connections):
            c.sendall(request(str(i)))
        for i, c in enumerate(connections):
            self.assertEqual(Answer(c).json(), i)
            c.close()

    def test_async(self):
        shim = self.shim(
            "import asyncio\nwaiting, go = [], asyncio.Event()\n"
            "async def handler(event, context):\n"
            "  waiting.append(context.aws_request_id)\n"
            "  if len(waiting) == 50: go.set()\n"
            "  await go.wait()\n"
            "  if event == 'fail': 1/0\n"
            "  return event",
            concurrency=50,
        )
        self.meet(shim, 50)
        self.check_error(shim.call('"fail"'), "handler_error", "ZeroDivisionError")
        self.check_error(shim.call("{"), "invalid_json", "not JSON")
        self.check_error(shim.call(headers=[("Content-Length", "67108865")]), "body_too_large")
        self.assertEqual(shim.call(trigger="http", body="x").json()["body"], "x")
        self.assertEqual(shim.call(json.dumps("x" * 3_000_000)).json(), "x" * 3_000_000)

    def test_threads(self):
        shim = self.shim(
            "import threading, lambent\nmeet = threading.Barrier(20)\n"
            "@lambent.threads\n"
            "def handler(event, context):\n"
            "  if event == 'fail': 1/0\n"
            "  if event == 'await':\n"
            "    async def no(): pass\n"
            "    return no()\n"
            "  meet.wait(20)\n"
            "  return event",
            concurrency=20,
        )
        self.meet(shim, 20)
        self.check_error(shim.call('"fail"'), "handler_error", "ZeroDivisionError")
        self.check_error(shim.call('"await"'), "bad_response", "make it async")
        self.check_error(shim.call("{"), "invalid_json", "not JSON")
        with shim.connect() as idle:
            idle.sendall(b"OPTIONS * HTTP/1.1\r\n\r\n")
            Answer(idle)
            shim.process.send_signal(signal.SIGTERM)
            self.assertEqual(shim.process.wait(LIMIT), 0)

    def test_no_thread_can_be_started(self):
        shim = self.start(
            {"main.py": "import lambent, lambent_shim.threads as t\n"
             "def start(self): raise RuntimeError(\"can't start new thread\")\n"
             "t.Thread.start = start\n@lambent.threads\ndef handler(e, c): pass"},
            concurrency=2,
        )  # fmt: skip
        for _ in range(2):
            self.check_error(shim.ready(), "handler_error", "can't start new thread: raise pids")

    def test_the_one_in_hand_is_finished(self):
        for code in ("async def handler(path, c):\n", "import lambent\n@lambent.threads\ndef handler(path, c):\n"):
            shim = self.shim(
                "import asyncio, os, time\n" + code + "  open(path, 'w').close()\n"
                "  while os.path.exists(path): " + ("await asyncio" if "async def" in code else "time") + ".sleep(0.001)\n"
                "  return 'done'",
                concurrency=2,
            )
            path = os.path.join(shim.sockets, "busy")
            with shim.connect() as c:
                c.sendall(request('"%s"' % path))
                while not os.path.exists(path):
                    self.assertIsNone(shim.process.poll())
                shim.process.send_signal(signal.SIGTERM)
                os.remove(path)
                self.assertEqual(Answer(c).json(), "done")
            self.assertEqual(shim.process.wait(LIMIT), 0)

    def test_threads_alone_need_no_concurrency(self):
        shim = self.shim("from lambent import threads\n@threads\ndef handler(e, c): return 1")
        self.assertEqual(shim.call().json(), 1)

    def test_refused(self):
        cases = [
            ("def handler(e, c): pass", ["HandlerUnfit: concurrency is 2", "@threads", "async def"], False),
            ("import lambent\n@lambent.threads\nasync def handler(e, c): pass", ["TypeError", "for plain functions"], True),
        ]
        for code, parts, ours in cases:
            shim = self.start({"main.py": code}, concurrency=2)
            self.check_error(shim.ready(), "start_failed", *parts, ours=ours)
            self.assertEqual(shim.process.wait(LIMIT), 1)


class Kinds(ShimTest):
    def test_kinds(self):
        answer = "[await send({'type': 'http.response.start', 'status': 200}), await send({'type': 'http.response.body', 'body': b'asgi'})]"
        asgi = "(scope, receive, send):\n    if scope['type'] == 'http': " + answer
        wsgi = "(environ, start_response):\n    start_response('200 OK', [])\n    return [b'wsgi']"
        cases = [
            ("async def app" + asgi, b"asgi"),
            ("class App:\n  async def __call__" + asgi.replace("(", "(self, ", 1) + "\napp = App()", b"asgi"),
            ("class app:\n  async def __call__" + asgi.replace("(", "(self, ", 1), b"asgi"),
            ("async def inner" + asgi + "\ndef app(scope, receive, send): return inner(scope, receive, send)", b"asgi"),
            ("import functools\nasync def inner" + asgi.replace("(", "(x, ", 1) + "\napp = functools.partial(inner, 1)", b"asgi"),
            ("class app:\n  def __init__(self, *given): self.given = given\n  def __await__(self): return self.go(*self.given).__await__()\n"
             "  async def go" + asgi.replace("(", "(self, ", 1), b"asgi"),
            ("def app" + wsgi, b"wsgi"),
            ("class App:\n  def __call__" + wsgi.replace("(", "(self, ", 1) + "\napp = App()", b"wsgi"),
            ("class app:\n  def __init__(self, environ, start_response): start_response('200 OK', [])\n  def __iter__(self): return iter([b'wsgi'])", b"wsgi"),
        ]  # fmt: skip
        for code, body in cases:
            with self.subTest(code):
                self.assertEqual(self.shim(code, handler="main:app", concurrency=9).call(trigger="http").body, body)

    def test_unfit(self):
        cases = [
            ("app = 7", "is a int, not callable; looked for: a fetch handler"),
            ("", "main.py has no attribute 'app'"),
            ("def app(event, context): pass", "handlers of events are named with a dot: MODULE.app"),
            ("async def app(event, context): pass", "handlers of events are named with a dot"),
            ("def app(scope): pass", "ASGI 2"),
            ("class app:\n  def __init__(self, scope): pass\n  async def __call__(self, receive, send): pass", "ASGI 2"),
            ("def app(): pass", "app = app()"),
            ("def app(config=None): pass", "app = app()"),
            ("class app:\n  def __init__(self, a): pass\n  async def __call__(self, s, r, t): pass", "needs arguments"),
            ("class app: pass", "instances are not callable"),
            ("def app(a, b, c=None): pass", "does not show by its arguments"),
            ("async def app(a, b, c, d): pass", "does not take 1 to 3"),
            ("def app(request): pass", "is not async"),
            ("class app:\n  def fetch(self, request): pass", "fetch that is not async"),
        ]
        for code, part in cases:
            with self.subTest(code):
                shim = self.start({"main.py": code}, handler="main:app", concurrency=100)
                self.check_error(shim.ready(), "start_failed", part)
                self.assertEqual(shim.process.wait(LIMIT), 1)
