"""The handler of the chaos tests. It journals the id of each request when the shim sees it and is about to read it, when
that has been read, and when its work is done; see functions/server."""

import os
import re
import socket
import sys
import time

JOURNAL = "/tmp/journal"
TARGET = re.compile(rb"POST [^ ]*[?&]id=([a-z0-9-]+)")


def note(what, identity):
    os.write(journal, b"%b %b\n" % (what, identity))


# To open it waits for the harness.
os.mkfifo(JOURNAL, 0o600)
journal = os.open(JOURNAL, os.O_WRONLY)
note(b"hello", b"%b %b" % (os.environb[b"LAMBENT_INSTANCE"], os.environb[b"LAMBENT_FUNCTION"]))


class Watched:
    """A connection's socket that journals what is read from it."""

    def __init__(self, sock):
        self._sock = sock

    def __getattr__(self, name):
        return getattr(self._sock, name)

    def recv(self, size, *flags):
        found = TARGET.match(self._sock.recv(size, socket.MSG_PEEK))
        if found:
            note(b"seen", found[1])
        data = self._sock.recv(size, *flags)
        if found:
            note(b"read", found[1])
        return data


Connection = sys.modules["lambent_shim.wire"].Connection
begin = Connection.__init__
Connection.__init__ = lambda self, sock: begin(self, Watched(sock))


def handler(event, context):
    identity = event["queryStringParameters"]["id"]
    time.sleep(0.005)
    note(b"done", identity.encode())
    return "done %s %s\n" % (identity, os.environ["LAMBENT_INSTANCE"])
