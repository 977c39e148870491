"""The handler of the chaos tests. It journals the id of each request when the shim has read it, and again when its
work is done; see functions/server."""

import os
import re
import sys
import time

JOURNAL = "/tmp/journal"
TARGET = re.compile(rb"\?id=([a-z0-9-]+)")


def note(what, identity):
    os.write(journal, b"%b %b\n" % (what, identity))


# To open it waits for the harness. The journal of what was read is kept by the connection's buffer, which sees
# the bytes right after the kernel gave them.
os.mkfifo(JOURNAL, 0o600)
journal = os.open(JOURNAL, os.O_WRONLY)
note(b"hello", b"%b %b" % (os.environb[b"LAMBENT_INSTANCE"], os.environb[b"LAMBENT_FUNCTION"]))


class Buffer(bytearray):
    def __iadd__(self, data):
        if data.startswith(b"POST ") and (found := TARGET.search(data)):
            note(b"accepted", found[1])
        return super().__iadd__(data)


Connection = sys.modules["lambent_shim.wire"].Connection
begin = Connection.__init__


def watched(self, sock):
    begin(self, sock)
    self._buffer = Buffer()


Connection.__init__ = watched


def handler(event, context):
    identity = event["queryStringParameters"]["id"]
    time.sleep(0.005)
    note(b"done", identity.encode())
    return "done %s %s\n" % (identity, os.environ["LAMBENT_INSTANCE"])
