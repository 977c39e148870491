import json
import math

from harness import LIMIT, Answer, ShimTest, request

ECHO = "def handler(event, context): return event"


class Invoke(ShimTest):
    def test_json_both_ways(self):
        shim = self.shim(ECHO)
        for value in ({}, {"a": [1, 2.5, None, True, "é😀\u2028"]}, [], "text", 0, None, "x" * 3_000_000):
            answer = shim.call(json.dumps(value))
            self.assertEqual((answer.status, answer.headers["Content-Type"]), (200, "application/json"))
            self.assertEqual(answer.json(), value)

    def test_an_empty_body_is_an_empty_object(self):
        self.assertEqual(self.shim(ECHO).call(b"").json(), {})

    def test_invalid_json(self):
        shim = self.shim(ECHO)
        cases = [
            ('{"a": }', "line 1 column 7 (char 6)"),
            ("{}x", "Extra data: line 1 column 3"),
            (b'"\xff"', "not UTF-8: byte 1"),
            ("NaN", "NaN is not a JSON number"),
            ("[" * 100_000, "nested too deeply"),
            ("1" * 5000, "not JSON"),
        ]
        for body, part in cases:
            with self.subTest(part):
                answer = shim.call(body)
                self.assertEqual(answer.status, 400)
                self.check_error(answer, "invalid_json", part)

    def test_what_is_no_json(self):
        cases = [
            ("{'items': [0, {'when': {1}}]}", "$.items[1].when is a set"),
            ("{(1, 2): 3}", "$ has a key that is a tuple"),
            ("[float('nan')]", "$[0] is nan"),
            ("[-float('inf')]", "$[0] is -inf"),
            ("b'bytes'", "$ is a bytes"),
            ("(x := [], x.append(x))[0]", "contains itself"),
            ("(i for i in ())", "$ is a generator"),
        ]
        for code, part in cases:
            with self.subTest(part):
                answer = self.shim("def handler(e, c): return %s" % code).call()
                self.assertEqual(answer.status, 500)
                self.check_error(answer, "bad_response", part)

    def test_context(self):
        shim = self.shim(
            "def handler(e, c): return {k: getattr(c, k) for k in dir(c) if k[0] != '_' and not k.startswith('get')}"
            " | {'left': c.get_remaining_time_in_millis()}"
        )
        got = shim.call().json()
        self.assertTrue(29_000 < got.pop("left") <= 30_000)
        self.assertEqual(
            got,
            {
                "aws_request_id": "inv-1",
                "function_name": "f",
                "function_version": "r1",
                "invoked_function_arn": "arn:lambent:lambda:local:default:function:f",
                "memory_limit_in_mb": "256",
                "log_group_name": "/lambent/default/f",
                "log_stream_name": "i1",
                "identity": None,
                "client_context": None,
            },
        )

    def test_time_left_is_never_negative(self):
        shim = self.shim("def handler(e, c): return c.get_remaining_time_in_millis()")
        with shim.connect() as c:
            c.sendall(b"POST / HTTP/1.1\r\nLambent-Invocation: i\r\nLambent-Trigger: invoke\r\nLambent-Deadline: 1\r\n\r\n")
            self.assertIn(b"\r\n\r\n0", c.recv(4096))

    def test_async(self):
        shim = self.shim(
            "import asyncio\nloops = set()\n"
            "async def handler(event, context):\n"
            "  await asyncio.sleep(0)\n"
            "  loops.add(id(asyncio.get_running_loop()))\n"
            "  if event: raise ValueError(event)\n"
            "  return len(loops)"
        )
        self.assertEqual(shim.call().json(), 1)
        told = self.check_error(shim.call('"no"'), "handler_error", "ValueError: no")
        self.assertNotIn("asyncio", "\n".join(told["trace"]))
        self.assertEqual(shim.call().json(), 1)

    def test_handler_errors(self):
        cases = [
            ("1/0", "ZeroDivisionError: division by zero"),
            ("import sys; sys.exit(4)", "called sys.exit(4)"),
            ("raise KeyboardInterrupt", "KeyboardInterrupt"),
            ("raise GeneratorExit", "GeneratorExit"),
            ("handler(event, context)", "RecursionError"),
            ("raise type('E', (Exception,), {'__str__': lambda s: 1/0})", "str() failed"),
            ("raise type('E', (Exception,), {'__str__': lambda s: handler(0, 0)})", "str() failed"),
            ("raise ValueError('x' * 100000)", "ValueError: xxx"),
            ("raise ValueError('\\ud800 \\x00 \\U0001f600')", "\ud800 \0 \U0001f600"),
            ("import sys; sys.stderr = None; 1/0", "ZeroDivisionError"),
            ("import sys; sys.stdout.close(); sys.stderr.close(); 1/0", "ZeroDivisionError"),
        ]
        for code, part in cases:
            with self.subTest(code):
                shim = self.shim("def handler(event, context):\n  %s" % code)
                for _ in range(2):  # it goes on serving
                    answer = shim.call()
                    self.assertEqual(answer.status, 500)
                    self.check_error(answer, "handler_error", part)

    def test_wrong_signature(self):
        told = self.check_error(self.shim("def handler(): pass").call(), "handler_error", "takes 0 positional arguments")
        self.assertEqual(len(told["trace"]), 1)

    def test_the_cause_is_told(self):
        shim = self.shim("def handler(e, c):\n  try: {}['k']\n  except KeyError as e: raise ValueError('v') from e")
        trace = "\n".join(shim.call().json()["trace"])
        self.assertLess(trace.index("KeyError: 'k'"), trace.index("ValueError: v"))
        self.assertEqual(shim.stderr().strip(), trace)

    def test_exit_ends_the_process(self):
        shim = self.shim("import os\ndef handler(e, c): os._exit(9)")
        with self.assertRaises(ConnectionError):
            shim.call()
        self.assertEqual(shim.process.wait(LIMIT), 9)

    def test_a_forked_child_does_not_answer(self):
        shim = self.shim(
            "import os\ndef handler(e, c):\n  pid = os.fork()\n  if pid: os.waitpid(pid, 0)\n  return 'once'"
        )
        with shim.connect() as c:
            for _ in range(2):
                c.sendall(request())
                self.assertEqual(Answer(c).json(), "once")

    def test_default_timeouts_of_the_function_do_not_reach_the_shim(self):
        shim = self.shim("import socket\ndef handler(e, c):\n  socket.setdefaulttimeout(0.001)\n  return len(e)")
        for _ in range(2):
            self.assertEqual(shim.call(json.dumps("x" * 2_000_000)).json(), 2_000_000)

    def test_numbers_keep_their_value(self):
        self.assertEqual(self.shim(ECHO).call(repr(math.pi)).json(), math.pi)
