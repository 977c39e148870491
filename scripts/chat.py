"""Two people in a chat room: python3 scripts/chat.py http://HOST:PORT/fn/chat/ MESSAGE

Ann sends the message, Bob prints what he hears. It speaks just the RFC 6455 that this takes."""

import base64
import os
import socket
import sys
from urllib.parse import urlsplit


class Person:
    def __init__(self, url, name):
        self.sock = socket.create_connection((url.hostname, url.port), timeout=10)
        self.file = self.sock.makefile("rb")
        key = base64.b64encode(os.urandom(16)).decode()
        self.sock.sendall(
            f"GET {url.path}?name={name} HTTP/1.1\r\nHost: {url.netloc}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        status = self.file.readline().decode()
        if " 101 " not in status:
            sys.exit("chat: the server answered " + status)
        while self.file.readline() not in (b"\r\n", b""):
            pass

    def say(self, text):
        data, mask = text.encode(), os.urandom(4)
        assert len(data) < 126
        self.sock.sendall(bytes([0x81, 0x80 | len(data)]) + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(data)))

    def hear(self):
        head = self.file.read(2)
        size = head[1]
        if size == 126:
            size = int.from_bytes(self.file.read(2), "big")
        return self.file.read(size).decode()


url, message = urlsplit(sys.argv[1]), sys.argv[2]
ann, bob = Person(url, "Ann"), Person(url, "Bob")
ann.say(message)
while message not in (heard := bob.hear()):
    pass
print(heard)
