"""Writes the head and the body of an answer apart, as http.server does."""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Parts(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"body")


ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Parts).serve_forever()
