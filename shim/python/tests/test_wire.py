import os
import signal
import socket

from harness import LIMIT, Answer, ShimTest, request

ECHO = "def handler(event, context): return event"
HOST = b"Lambent-Invocation: i\r\nLambent-Trigger: invoke\r\nLambent-Deadline: 9999999999999\r\n"


class Connections(ShimTest):
    def test_keep_alive_and_pipelining(self):
        shim = self.shim(ECHO)
        with shim.connect() as c:
            for i in range(3):
                c.sendall(request(str(i)))
                self.assertEqual(Answer(c).json(), i)
            c.sendall(request("1", chunks=[b"1"]) + request("2") + request("3"))
            got = b""
            while got.count(b"HTTP/1.1 200") < 3 or not got.endswith(b"3"):
                got += c.recv(65536)
            self.assertLess(got.index(b"\r\n\r\n1"), got.index(b"\r\n\r\n2"))

    def test_an_idle_connection_does_not_block_another(self):
        shim = self.shim(ECHO)
        with shim.connect() as idle, shim.connect() as other:
            idle.sendall(request("1"))
            self.assertEqual(Answer(idle).json(), 1)
            other.sendall(request("2"))
            self.assertEqual(Answer(other).json(), 2)
            idle.sendall(request("3"))
            self.assertEqual(Answer(idle).json(), 3)

    def test_half_closed(self):
        shim = self.shim(ECHO)
        with shim.connect() as c:
            c.sendall(request("5"))
            c.shutdown(socket.SHUT_WR)
            self.assertEqual(Answer(c).json(), 5)
            self.assertEqual(c.recv(1), b"")

    def test_a_request_in_drops(self):
        shim = self.shim(ECHO)
        with shim.connect() as c:
            for byte in request("42", chunks=[b"4", b"2"]):
                c.sendall(bytes([byte]))
            self.assertEqual(Answer(c).json(), 42)

    def test_an_incomplete_request_never_reaches_the_handler(self):
        shim = self.shim("calls = []\ndef handler(event, context):\n  calls.append(1)\n  return len(calls)")
        for raw in (request("123")[:-1], request("", chunks=[b"123"])[:-2], b"POST / HTTP/1.1\r\n"):
            with shim.connect() as c:
                c.sendall(raw)
                c.shutdown(socket.SHUT_WR)
                self.assertEqual(c.recv(1), b"")
        self.assertEqual(shim.call().json(), 1)

    def test_a_client_that_leaves(self):
        shim = self.shim("def handler(event, context): return 'x' * 20_000_000")
        for _ in range(3):
            with shim.connect() as c:
                c.sendall(request())
                c.recv(10)
        self.assertEqual(len(shim.call().body), 20_000_002)

    def test_what_is_refused(self):
        shim = self.shim(ECHO)
        head = b"POST / HTTP/1.1\r\n" + HOST
        cases = [
            (b"POST / HTTP/1.0\r\n\r\n", 400),
            (b"POST  / HTTP/1.1\r\n\r\n", 400),
            (b"P(ST / HTTP/1.1\r\n\r\n", 400),
            (b"POST /\r\n\r\n", 400),
            (head + b"A : b\r\n\r\n", 400),
            (head + b"no colon\r\n\r\n", 400),
            (head + b"A: b\r\n folded\r\n\r\n", 400),
            (head + b"A: b\nC: d\r\n\r\n", 400),
            (head + b"A: b\rc\r\n\r\n", 400),
            (head + b"A: \0\r\n\r\n", 400),
            (head + b"Content-Length: +1\r\n\r\nx", 400),
            (head + b"Content-Length: 1_0\r\n\r\nx", 400),
            (head + b"Content-Length:\r\n\r\n", 400),
            (head + b"Content-Length: \xb2\r\n\r\nxx", 400),
            (head + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx", 400),
            (head + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
            (head + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
            (head + b"Transfer-Encoding: chunked\r\n\r\n+1\r\nx\r\n0\r\n\r\n", 400),
            (head + b"Transfer-Encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n", 400),
            (head + b"Transfer-Encoding: chunked\r\n\r\n\r\n0\r\n\r\n", 400),
            (head + b"Transfer-Encoding: chunked\r\n\r\n1\r\nxy0\r\n\r\n", 400),
            (head + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n", 413),
            (head + b"Content-Length: 67108865\r\n\r\n", 413),
            (head + b"Content-Length: 99999999999999999999\r\n\r\n", 400),
            (b"POST / HTTP/1.1\r\n\r\n", 400),
            (b"POST / HTTP/1.1\r\nLambent-Invocation: i\r\nLambent-Trigger: tea\r\nLambent-Deadline: 1\r\n\r\n", 400),
            (b"POST / HTTP/1.1\r\nLambent-Invocation: i\r\nLambent-Trigger: http\r\nLambent-Deadline: x\r\n\r\n", 400),
            (head + b"A: " + b"x" * 70_000, 431),
        ]
        for raw, status in cases:
            with self.subTest(raw[:300]), shim.connect() as c:
                c.sendall(raw)
                answer = Answer(c)
                self.assertEqual(answer.status, status)
                self.check_error(answer, "body_too_large" if status == 413 else "invalid_request")
                self.assertEqual(answer.headers["Connection"], "close")
                self.assertEqual(c.recv(1), b"")
        self.assertEqual(shim.call("1").json(), 1)


class Output(ShimTest):
    def test_output_is_there_before_the_answer(self):
        shim = self.shim("import sys\ndef handler(e, c):\n  print('out', e)\n  sys.stderr.write('err %d' % e)\n  return e")
        for i in range(20):
            self.assertEqual(shim.call(str(i)).json(), i)
            self.assertEqual((shim.stdout(), shim.stderr()), ("out %d\n" % i, "err %d" % i))

    def test_output_of_the_load(self):
        shim = self.shim("print('loaded é')\ndef handler(e, c): pass")
        self.assertEqual(shim.stdout(), "loaded é\n")

    def test_a_broken_stdout_does_not_cost_the_answer(self):
        shim = self.shim("print('x')\ndef handler(e, c):\n  print('y' * 100)\n  return 1")
        shim.stdout()
        shim.process.stdout.close()
        for _ in range(2):
            self.assertEqual(shim.call().json(), 1)


class Stop(ShimTest):
    def test_idle(self):
        shim = self.shim("import atexit\natexit.register(print, 'bye')\n" + ECHO)
        with shim.connect() as idle:
            idle.sendall(request("1"))
            self.assertEqual(Answer(idle).json(), 1)
            shim.process.send_signal(signal.SIGTERM)
            self.assertEqual(shim.process.wait(LIMIT), 0)
        self.assertEqual(shim.stdout(), "bye\n")

    def test_the_request_in_hand_is_finished(self):
        shim = self.shim(
            "import os, time\ndef handler(path, c):\n"
            "  open(path, 'w').close()\n"
            "  while os.path.exists(path): time.sleep(0.001)\n"
            "  return 'done'"
        )
        path = os.path.join(shim.sockets, "busy")
        with shim.connect() as c:
            c.sendall(request('"%s"' % path))
            while not os.path.exists(path):
                self.assertIsNone(shim.process.poll())
            shim.process.send_signal(signal.SIGTERM)
            os.remove(path)
            answer = Answer(c)
        self.assertEqual((answer.json(), answer.headers["Connection"]), ("done", "close"))
        self.assertEqual(shim.process.wait(LIMIT), 0)

    def test_the_functions_own_signal_handler_stays(self):
        shim = self.shim("import os, signal\nsignal.signal(signal.SIGTERM, lambda *_: os._exit(5))\n" + ECHO)
        shim.process.send_signal(signal.SIGTERM)
        self.assertEqual(shim.process.wait(LIMIT), 5)
