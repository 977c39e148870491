"""A shim in small: raw sockets on descriptor 3, one request after the other, as lambent's own shim speaks."""

import os
import select
import socket
import time

START = time.monotonic_ns()
listener = socket.socket(fileno=3)


def answer(head, body):
    method, target = head[0].split(" ")[:2]
    if method == "OPTIONS":
        return "204 No Content", "Lambent-Start: %d\r\n" % START, b""
    if target == "/raise":
        report = b'{"type": "ValueError", "message": "no", "trace": ["Traceback:", "  line 1"]}'
        return "500 Error", "Lambent-Error: handler_error\r\n", report
    if target == "/die":
        os._exit(3)
    ours = [line for line in head if line.lower().startswith("lambent")]
    return "200 OK", "X-Ours: %s\r\nLambent-Secret: 1\r\n" % "; ".join(sorted(ours)), body


def serve(conn):
    data = conn.recv(1 << 16)
    if not data:
        return False
    while b"\r\n\r\n" not in data:
        data += conn.recv(1 << 16)
    raw, _, body = data.partition(b"\r\n\r\n")
    head = raw.decode("latin-1").split("\r\n")
    length = next((int(line.split(":")[1]) for line in head if line.lower().startswith("content-length:")), 0)
    while len(body) < length:
        body += conn.recv(1 << 16)
    status, fields, out = answer(head, body)
    size = "" if status.startswith("204") else "Content-Length: %d\r\n" % len(out)
    conn.sendall(("HTTP/1.1 %s\r\n%s%s\r\n" % (status, fields, size)).encode() + out)
    return True


connections = {}
while True:
    for sock in select.select([listener, *connections.values()], [], [])[0]:
        if sock is listener:
            conn, _ = listener.accept()
            connections[conn.fileno()] = conn
        elif not serve(sock):
            del connections[sock.fileno()]
            sock.close()
