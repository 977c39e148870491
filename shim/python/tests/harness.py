"""Runs the real shim in a process of its own, with a real listening socket as fd 3."""

import http.client
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import unittest

COMMAND = json.loads(os.environ["SHIM_COMMAND"])
LIMIT = 20  # seconds that anything may take


class Shim:
    """A started shim over a bundle of the given files, and of links to others."""

    def __init__(self, files, handler="main.handler", env=None, concurrency=1, links=()):
        self.task = tempfile.mkdtemp()
        for name, text in files.items():
            path = os.path.join(self.task, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as file:
                file.write(text)
        for path in links:
            os.symlink(path, os.path.join(self.task, os.path.basename(path)))
        self.sockets = tempfile.mkdtemp()
        self.address = os.path.join(self.sockets, "s")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.address)
        listener.listen(128)
        self.process = subprocess.Popen(
            COMMAND,
            cwd=self.task,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(3,),
            preexec_fn=lambda: os.dup2(listener.fileno(), 3),
            env={
                "LISTEN_FDS": "1",
                "LAMBENT_HANDLER": handler,
                "LAMBENT_NAMESPACE": "default",
                "LAMBENT_FUNCTION": "f",
                "LAMBENT_REVISION": "r1",
                "LAMBENT_INSTANCE": "i1",
                "LAMBENT_MEMORY": "256",
                "LAMBENT_CONCURRENCY": str(concurrency),
                **(env or {}),
            },
        )
        listener.close()
        for pipe in (self.process.stdout, self.process.stderr):
            os.set_blocking(pipe.fileno(), False)

    def close(self):
        self.process.kill()
        self.process.wait(LIMIT)
        self.process.stdout.close()
        self.process.stderr.close()
        shutil.rmtree(self.task)
        shutil.rmtree(self.sockets)

    def connect(self):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(LIMIT)
        connection.connect(self.address)
        return connection

    def ready(self):
        """The answer to the first request."""
        with self.connect() as connection:
            connection.sendall(b"OPTIONS * HTTP/1.1\r\nHost: shim\r\n\r\n")
            return Answer(connection)

    def call(self, *args, **kwargs):
        with self.connect() as connection:
            connection.sendall(request(*args, **kwargs))
            return Answer(connection, kwargs.get("method", "POST"))

    def stdout(self):
        return (self.process.stdout.read() or b"").decode()

    def stderr(self):
        return (self.process.stderr.read() or b"").decode()

    def hear(self, read, part):
        """Waits until what read gives, stdout or stderr, holds part."""
        told, end = "", time.monotonic() + LIMIT
        while part not in told:
            told += read()
            if time.monotonic() > end:
                raise AssertionError("%r does not come, only %r" % (part, told))
            time.sleep(0.001)
        return told


class Answer:
    """A parsed answer."""

    def __init__(self, connection, method="GET"):
        response = http.client.HTTPResponse(connection, method=method)
        response.begin()
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()
        self.error = self.headers["Lambent-Error"]

    def json(self):
        return json.loads(self.body)


def request(body=b"", trigger="invoke", method="POST", target="/", headers=(), chunks=None):
    """The bytes of a request as the host sends it."""
    lines = [
        "%s %s HTTP/1.1" % (method, target),
        "Lambent-Invocation: inv-1",
        "Lambent-Trigger: " + trigger,
        "Lambent-Deadline: %d" % (time.time() * 1000 + 30000),
    ]
    lines += ["%s: %s" % field for field in headers]
    if isinstance(body, str):
        body = body.encode()
    if chunks is not None:
        lines.append("Transfer-Encoding: chunked")
        body = b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in chunks) + b"0\r\n\r\n"
    elif body:
        lines.append("Content-Length: %d" % len(body))
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


class ShimTest(unittest.TestCase):
    """Starts shims and ends them."""

    def shim(self, main, **kwargs):
        shim = self.start({"main.py": main}, **kwargs)
        answer = shim.ready()
        self.assertEqual(answer.status, 204, answer.body)
        return shim

    def start(self, files, **kwargs):
        shim = Shim(files, **kwargs)
        self.addCleanup(shim.close)
        return shim

    def check_error(self, answer, code, *parts, ours=False):
        """Checks that the answer is that error and that its message or type holds the parts. Frames of ours are in
        its trace where the function called us."""
        self.assertEqual(answer.error, code, answer.body)
        told = answer.json()
        self.assertEqual(sorted(told), ["message", "trace", "type"])
        for part in parts:
            self.assertIn(part, told["type"] + ": " + told["message"])
        self.assertEqual("lambent_shim" in "\n".join(told["trace"]), ours)
        return told
