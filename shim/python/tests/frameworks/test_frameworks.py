"""Applications of real frameworks; FRAMEWORKS is the folder that requirements.txt was installed into."""

import json
import os
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

from harness import LIMIT, Answer, ShimTest, request
from test_websocket import Peer, frame

PACKAGES = os.environ["FRAMEWORKS"]

FASTAPI = """
import asyncio, contextlib
from fastapi import BackgroundTasks, FastAPI, Request, UploadFile, WebSocket
from fastapi.responses import RedirectResponse, StreamingResponse
from pydantic import BaseModel

@contextlib.asynccontextmanager
async def lifespan(app):
    print("up")
    yield {"pool": "a pool"}
    print("down")

app = FastAPI(lifespan=lifespan)
ended = []

class Item(BaseModel):
    name: str
    price: float

@app.post("/items/{number}")
async def item(number: int, item: Item, request: Request):
    return {"number": number, "item": item, "pool": request.state.pool, "url": str(request.url), "client": request.client.host,
            "named": str(request.url_for("item", number=7))}

@app.post("/upload")
async def upload(file: UploadFile):
    return {"name": file.filename, "size": len(await file.read())}

@app.get("/blocking")
def blocking(): return "from a thread"

@app.get("/stream")
async def stream():
    async def pieces():
        try:
            for i in range(3):
                yield "piece %d\\n" % i
            await asyncio.sleep(600)
        finally:
            ended.append("stream")
    return StreamingResponse(pieces())

@app.get("/ended")
async def get_ended(): return ended

@app.get("/later")
async def later(tasks: BackgroundTasks):
    tasks.add_task(print, "later")
    return "now"

@app.get("/raise")
async def fail(): raise KeyError("as asked")

@app.get("/slash/")
async def slash(): return 1

@app.websocket("/ws")
async def ws(socket: WebSocket):
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_json({"said": text})
    ended.append("ws")

@app.websocket("/denied")
async def denied(socket: WebSocket):
    await socket.close(reason="no")
"""

FLASK = """
import time
from flask import Flask, Response, jsonify, redirect, request, stream_with_context, url_for

app = Flask(__name__)

@app.post("/echo/<name>")
def echo(name):
    return jsonify(name=name, json=request.get_json(silent=True), form=request.form, args=request.args, addr=request.remote_addr,
                   url=request.url, named=url_for("stream")), 201

@app.post("/upload")
def upload():
    return str(sum(len(f.read()) for f in request.files.values()))

@app.get("/stream")
def stream():
    return Response(stream_with_context("piece %d\\n" % i for i in range(3)))

@app.get("/slow")
def slow():
    time.sleep(0.2)
    return "slept"

@app.get("/raise")
def fail(): raise KeyError("as asked")

@app.get("/cookie")
def cookie():
    answer = redirect("/there")
    answer.set_cookie("a", "1")
    answer.set_cookie("b", "2")
    return answer

@app.get("/slash/")
def slash(): return "1"
"""

DJANGO = """
from django.conf import settings
settings.configure(SECRET_KEY="x", ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, USE_TZ=True)
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path

def view(request):
    return HttpResponse("%s %s %s" % (request.method, request.get_full_path(), request.body.decode()))

async def aview(request):
    return HttpResponse("async " + request.path)

urlpatterns = [path("view", view), path("aview", aview)]
asgi = get_asgi_application()
wsgi = get_wsgi_application()
"""

FORWARDED = [("Host", "h:8080"), ("X-Forwarded-For", "203.0.113.9"), ("X-Forwarded-Prefix", "/fn/f"), ("X-Forwarded-Proto", "https")]
UPLOAD = (
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.bin"\r\nContent-Type: application/octet-stream\r\n\r\n'
    + b"x" * 3_000_000 + b"\r\n--b--\r\n"
)  # fmt: skip


class FrameworkTest(ShimTest):
    def app(self, code, handler="main:app"):
        links = [os.path.join(PACKAGES, name) for name in os.listdir(PACKAGES)]
        return self.shim(code, handler=handler, concurrency=100, links=links)

    def call(self, shim, target, method="GET", **kwargs):
        return shim.call(trigger="http", target=target, method=method, **kwargs)

    def stop(self, shim):
        shim.process.send_signal(signal.SIGTERM)
        self.assertEqual(shim.process.wait(LIMIT), 0)


class FastAPI(FrameworkTest):
    def test(self):
        shim = self.app(FASTAPI)
        headers = FORWARDED + [("Content-Type", "application/json")]
        answer = self.call(shim, "/items/5?q=1", "POST", headers=headers, body=json.dumps({"name": "n", "price": 2}))
        self.assertEqual(
            answer.json(),
            {"number": 5, "item": {"name": "n", "price": 2.0}, "pool": "a pool", "url": "https://h:8080/fn/f/items/5?q=1",
             "client": "203.0.113.9", "named": "https://h:8080/fn/f/items/7"},
        )  # fmt: skip
        self.assertEqual(self.call(shim, "/items/x", "POST", headers=headers, body="{}").status, 422)
        kind = [("Content-Type", "multipart/form-data; boundary=b")]
        self.assertEqual(self.call(shim, "/upload", "POST", headers=kind, body=UPLOAD).json(), {"name": "x.bin", "size": 3_000_000})
        self.assertEqual(self.call(shim, "/blocking").json(), "from a thread")
        self.assertEqual(self.call(shim, "/slash", headers=FORWARDED).headers["location"], "https://h:8080/fn/f/slash/")
        self.assertEqual(self.call(shim, "/nothing").status, 404)
        self.assertEqual(self.call(shim, "/later").json(), "now")
        self.assertEqual(self.call(shim, "/raise").status, 500)  # Starlette's own answer
        shim.hear(shim.stderr, "KeyError: 'as asked'")
        with shim.connect() as c:
            c.sendall(request(trigger="http", target="/stream", method="GET"))
            got = b""
            while b"piece 2" not in got:
                got += c.recv(4096)
            c.shutdown(1)
            while c.recv(4096):
                pass
        self.assertEqual(self.call(shim, "/ended").json(), ["stream"])
        self.stop(shim)
        self.assertEqual(shim.stdout(), "up\nlater\ndown\n")

    def test_websocket(self):
        shim = self.app(FASTAPI)
        peer = Peer(shim)
        self.addCleanup(peer.c.close)
        self.assertEqual(peer.head()[0], "HTTP/1.1 101 ")
        peer.c.sendall(frame(1, b"hello"))
        self.assertEqual(json.loads(peer.frame()[1]), {"said": "hello"})
        peer.c.sendall(frame(8, b"\x03\xe8"))
        self.assertEqual(peer.frame(), (0x88, b"\x03\xe8"))
        self.assertEqual(self.call(shim, "/ended").json(), ["ws"])
        denied = Peer(shim, target="/denied")
        self.addCleanup(denied.c.close)
        self.assertEqual(Answer(denied.c).status, 403)
        self.stop(shim)

    def test_a_failing_lifespan(self):
        shim = self.start({"main.py": FASTAPI.replace('print("up")', "1/0")}, handler="main:app", concurrency=100)
        for name in os.listdir(PACKAGES):
            os.symlink(os.path.join(PACKAGES, name), os.path.join(shim.task, name))
        self.check_error(shim.ready(), "start_failed", "ZeroDivisionError", ours=False)


class Flask(FrameworkTest):
    def test(self):
        shim = self.app(FLASK)
        headers = FORWARDED + [("Content-Type", "application/json")]
        answer = self.call(shim, "/echo/n%C3%A9?q=1", "POST", headers=headers, body='{"a": 1}')
        self.assertEqual(
            (answer.status, answer.json()),
            (201, {"name": "né", "json": {"a": 1}, "form": {}, "args": {"q": "1"}, "addr": "203.0.113.9",
                   "url": "https://h:8080/fn/f/echo/né?q=1", "named": "/fn/f/stream"}),
        )  # fmt: skip
        form = [("Content-Type", "application/x-www-form-urlencoded")]
        self.assertEqual(self.call(shim, "/echo/x", "POST", headers=form, chunks=[b"a=", b"b"]).json()["form"], {"a": "b"})
        kind = [("Content-Type", "multipart/form-data; boundary=b")]
        self.assertEqual(self.call(shim, "/upload", "POST", headers=kind, body=UPLOAD).body, b"3000000")
        self.assertEqual(self.call(shim, "/stream").body, b"piece 0\npiece 1\npiece 2\n")
        self.assertEqual(self.call(shim, "/cookie").headers.get_all("set-cookie"), ["a=1; Path=/", "b=2; Path=/"])
        self.assertEqual(self.call(shim, "/slash", headers=FORWARDED).headers["location"], "https://h:8080/fn/f/slash/")
        self.assertEqual(self.call(shim, "/raise").status, 500)  # Flask's own answer
        self.assertIn("KeyError: 'as asked'", shim.stderr())
        connections = [shim.connect() for _ in range(20)]
        for c in connections:
            c.sendall(request(trigger="http", target="/slow", method="GET"))
        for c in connections:
            self.assertEqual(Answer(c).body, b"slept")
            c.close()
        self.stop(shim)


class Django(FrameworkTest):
    def test(self):
        for kind in ("asgi", "wsgi"):
            with self.subTest(kind):
                shim = self.app(DJANGO, handler="main:" + kind)
                answer = self.call(shim, "/view?q=1", "POST", headers=FORWARDED, body="data")
                self.assertEqual(answer.body, b"POST /fn/f/view?q=1 data")
                self.assertEqual(self.call(shim, "/aview").body, b"async /aview")
                self.assertEqual(self.call(shim, "/nothing").status, 404)
                self.stop(shim)


class Starlette(FrameworkTest):
    def test_bare(self):
        shim = self.app(
            "from starlette.applications import Starlette\n"
            "from starlette.responses import PlainTextResponse\n"
            "from starlette.routing import Route\n"
            "from starlette.middleware.base import BaseHTTPMiddleware\n"
            "async def home(request): return PlainTextResponse((await request.body()).upper())\n"
            "async def mark(request, call_next):\n"
            "    answer = await call_next(request)\n    answer.headers['x-mark'] = '1'\n    return answer\n"
            "app = Starlette(routes=[Route('/', home, methods=['POST'])])\n"
            "app.add_middleware(BaseHTTPMiddleware, dispatch=mark)\n"
        )
        answer = self.call(shim, "/", "POST", chunks=[b"a", b"b"])
        self.assertEqual((answer.body, answer.headers["x-mark"], answer.headers["content-length"]), (b"AB", "1", "2"))
        self.stop(shim)
