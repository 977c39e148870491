import os
import signal

from harness import LIMIT, Answer, ShimTest, request

SHOW = """
import json, wsgiref.validate
def app(environ, start_response):
    body = environ["wsgi.input"].read()
    told = {k: v for k, v in environ.items() if isinstance(v, (str, bool))} | {"body": body.decode()}
    start_response("201 Created", [("X-Many", "a"), ("x-many", "b"), ("Lambent-Error", "internal")])
    return [json.dumps(told).encode()]
"""
OK = "    write = start_response('200 OK', %s)\n"


def app(code, before=""):
    return "%s\ndef app(environ, start_response):\n%s" % (before, code)


class WSGI(ShimTest):
    def app(self, code, **kwargs):
        kwargs.setdefault("concurrency", 100)
        return self.shim(code, handler="main:app", **kwargs)

    def http(self, shim, **kwargs):
        return shim.call(trigger="http", **kwargs)

    def test_environ(self):
        shim = self.app(SHOW)
        headers = [
            ("Host", "f.localhost:8080"),
            ("X-Forwarded-For", "203.0.113.9, 198.51.100.2"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Prefix", "/fn/f"),
            ("Content-Type", "text/plain"),
            ("Many", "1"),
            ("Many", "2"),
            ("Cookie", "a=1"),
            ("Cookie", "b=2"),
            ("Proxy", "http://evil"),
            ("Under_Score", "x"),
        ]
        answer = self.http(shim, target="/a%20b/%C3%A9?q=%31", headers=headers, body="data")
        self.assertEqual((answer.status, answer.headers.get_all("x-many"), answer.error), (201, ["a", "b"], None))
        self.assertEqual(
            answer.json(),
            {
                "REQUEST_METHOD": "POST",
                "SCRIPT_NAME": "/fn/f",
                "PATH_INFO": "/a b/é".encode().decode("latin-1"),
                "QUERY_STRING": "q=%31",
                "REQUEST_URI": "/a%20b/%C3%A9?q=%31",
                "SERVER_NAME": "f.localhost",
                "SERVER_PORT": "8080",
                "SERVER_PROTOCOL": "HTTP/1.1",
                "REMOTE_ADDR": "198.51.100.2",
                "CONTENT_TYPE": "text/plain",
                "CONTENT_LENGTH": "4",
                "HTTP_HOST": "f.localhost:8080",
                "HTTP_X_FORWARDED_FOR": "203.0.113.9, 198.51.100.2",
                "HTTP_X_FORWARDED_PROTO": "https",
                "HTTP_X_FORWARDED_PREFIX": "/fn/f",
                "HTTP_MANY": "1,2",
                "HTTP_COOKIE": "a=1; b=2",
                "wsgi.url_scheme": "https",
                "wsgi.input_terminated": True,
                "wsgi.multithread": True,
                "wsgi.multiprocess": False,
                "wsgi.run_once": False,
                "lambent.invocation": "inv-1",
                "body": "data",
            },
        )
        self.assertFalse(self.http(self.app(SHOW, concurrency=1)).json()["wsgi.multithread"])

    def test_the_validator_has_no_complaint(self):
        shim = self.app(
            app(OK % "[('Content-Type', 'text/plain')]" + "    return [b'fine']", "import wsgiref.validate")
            + "\napp = wsgiref.validate.validator(app)"
        )
        self.assertEqual(self.http(shim, headers=[("Host", "a")]).body, b"fine")

    def test_bodies_stream_both_ways(self):
        shim = self.app(app(OK % "[]" + "    return (line.upper() for line in environ['wsgi.input'])"))
        with shim.connect() as c:
            c.sendall(request(trigger="http", chunks=[])[: -len("0\r\n\r\n")])
            got = b""
            for i in range(5):
                c.sendall(b"6\r\nnext%d\n\r\n" % i)
                while not got.endswith(b"NEXT%d\n\r\n" % i):
                    got += c.recv(4096)
            c.sendall(b"0\r\n\r\n")
            while not got.endswith(b"\r\n0\r\n\r\n"):
                got += c.recv(4096)
            c.sendall(request("last", trigger="http"))
            self.assertEqual(Answer(c).body, b"LAST")

    def test_answers(self):
        cases = [
            (OK % "[]" + "    return [b'x']", b"x", "1"),
            (OK % "[]" + "    return []", b"", "0"),
            (OK % "[]" + "    return iter([b'x', b'', b'y'])", b"xy", None),
            (OK % "[('Content-Length', '2')]" + "    return iter([b'x', b'y'])", b"xy", "2"),
            (OK % "[]" + "    write(b'wri')\n    write(b'te')\n    return [b'!']", b"write!", None),
            (OK % "[]" + "    import io\n    return environ['wsgi.file_wrapper'](io.BytesIO(b'f' * 100_000))", b"f" * 100_000, None),
            ("    start_response('200 OK', [])\n    try: 1/0\n    except Exception:\n        import sys\n"
             "        start_response('200 OK', [('Content-Length', '1')], sys.exc_info())\n    return [b'e']", b"e", "1"),
            ("    def late():\n        start_response('200 OK', [])\n        yield b'late'\n    return late()", b"late", None),
        ]  # fmt: skip
        for code, body, length in cases:
            with self.subTest(code):
                answer = self.http(self.app(app(code)), method="GET")
                self.assertEqual((answer.status, answer.body, answer.headers["Content-Length"]), (200, body, length))
        answer = self.http(self.app(app(OK % "[]" + "    return [b'four']")), method="HEAD")
        self.assertEqual((answer.body, answer.headers["Content-Length"]), (b"", "4"))

    def test_failures(self):
        cases = [
            ("    1/0", "handler_error", "ZeroDivisionError"),
            ("    import sys; sys.exit(3)", "handler_error", "called sys.exit(3)"),
            ("    return [b'']", "bad_response", "before it called start_response"),
            (OK % "[]" + OK % "[]", "bad_response", "called twice"),
            (OK % "[]" + "    return ['text']", "bad_response", "a str, not bytes"),
            (OK % "()" + "    return []", "bad_response", "not a list"),
            (OK % "[('a', 1)]", "bad_response", "not a tuple of two strings"),
            (OK % "[('a', 'b\\r\\nc: d')]", "bad_response", "line break"),
            (OK % "[('a b', '')]", "bad_response", "not a valid header name"),
            ("    start_response(200, [])", "bad_response", "the status is 200"),
            ("    start_response('²00 OK', [])", "bad_response", "not of the form"),
            ("    start_response('101 Switching', [])", "bad_response", "not from 200 to 599"),
            (OK % "[('Content-Length', '2')]" + "    return [b'x']", "bad_response", "shorter"),
            (OK % "[('Content-Length', '0')]" + "    return [b'x']", "bad_response", "longer"),
            (OK % "[]" + "    return 7", "handler_error", "'int' object is not iterable"),
        ]
        for code, error, part in cases:
            with self.subTest(code):
                shim = self.app(app(code))
                for _ in range(2):
                    self.check_error(self.http(shim), error, part)

    def test_a_failure_within_the_answer_breaks_it_off(self):
        code = OK % "[]" + "    write(b'x')\n    try: 1/0\n    except Exception:\n        import sys\n        start_response('500 No', [], sys.exc_info())"
        shim = self.app(app(code))
        with shim.connect() as c:
            c.sendall(request(trigger="http"))
            got = b""
            while piece := c.recv(4096):
                got += piece
        self.assertTrue(got.endswith(b"1\r\nx\r\n"), got)
        self.assertIn("ZeroDivisionError", shim.stderr())

    def test_close_is_called(self):
        shim = self.app(
            "class Parts:\n"
            "    def __init__(self, fail): self.fail = fail\n"
            "    def __iter__(self):\n        yield b'x'\n        if self.fail: 1/0\n"
            "    def close(self): print('closed')\n"
            + app(OK % "[]" + "    return Parts(environ['PATH_INFO'] == '/fail')")
        )
        self.assertEqual(self.http(shim, target="/ok").body, b"x")
        self.assertEqual(shim.stdout(), "closed\n")
        with shim.connect() as c:
            c.sendall(request(trigger="http", target="/fail"))
            while c.recv(4096):
                pass
        self.assertEqual(shim.stdout(), "closed\n")

    def test_many_at_a_time(self):
        shim = self.app(app("    meet.wait(20)\n" + OK % "[]" + "    return [b'met']", "import threading\nmeet = threading.Barrier(20)"))
        connections = [shim.connect() for _ in range(20)]
        for c in connections:
            c.sendall(request(trigger="http"))
        for c in connections:
            self.assertEqual(Answer(c).body, b"met")
            c.close()

    def test_an_unread_body(self):
        shim = self.app(app(OK % "[]" + "    return [b'x']"))
        with shim.connect() as c:
            for _ in range(2):  # a small one is no reason to end the connection
                c.sendall(request("small", trigger="http"))
                self.assertEqual(Answer(c).body, b"x")
            c.sendall(request("", trigger="http", headers=[("Content-Length", "1000000")]))
            self.assertEqual(Answer(c).body, b"x")
            self.assertEqual(c.recv(1), b"")

    def test_callers_that_leave(self):
        shim = self.app(
            app(
                "    if environ['PATH_INFO'] == '/left': return [start_response('200 OK', []), str(left).encode()][1:]\n"
                "    try:\n"
                "        if environ['PATH_INFO'] == '/read': environ['wsgi.input'].read()\n"
                "        write = start_response('200 OK', [])\n"
                "        while True: write(b'x' * 100)\n"
                "    except OSError as error:\n"
                "        left.append(1)\n"
                "        raise\n",
                "left = []",
            )
        )
        for path in ("/write", "/read"):
            with shim.connect() as c:
                raw = request(trigger="http", target=path, chunks=[b"x"] if path == "/read" else None)
                c.sendall(raw[:-3] if path == "/read" else raw)
                c.shutdown(1)
                while c.recv(65536):
                    pass
        self.assertEqual(self.http(shim, target="/left").body, b"[1, 1]")
        self.assertEqual(shim.stderr(), "")

    def test_requests_in_hand_are_finished(self):
        shim = self.app(app("    import os, time\n    path = environ['PATH_INFO']\n    open(path, 'w').close()\n"
                            "    while os.path.exists(path): time.sleep(0.001)\n" + OK % "[]" + "    return [b'done']"))  # fmt: skip
        path = os.path.join(shim.sockets, "busy")
        with shim.connect() as idle, shim.connect() as c:
            idle.sendall(b"OPTIONS * HTTP/1.1\r\n\r\n")
            Answer(idle)
            c.sendall(request(trigger="http", target=path))
            while not os.path.exists(path):
                self.assertIsNone(shim.process.poll())
            shim.process.send_signal(signal.SIGTERM)
            os.remove(path)
            self.assertEqual(Answer(c).body, b"done")
            self.assertEqual(idle.recv(1), b"")
        self.assertEqual(shim.process.wait(LIMIT), 0)
