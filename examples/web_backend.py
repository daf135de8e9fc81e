"""A web backend with threads, that logs each request through `logging`, and rotates its log at midnight."""

import logging
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from bridge import BridgeHandler

log = logging.getLogger("backend")
log.setLevel(logging.INFO)
log.addHandler(BridgeHandler("hestai-message", component="ui", rotate="midnight", backups=90))


class Backend(BaseHTTPRequestHandler):
    """Answers every request."""

    def do_GET(self) -> None:
        """Logs the request, and answers."""
        log.info("asked for %s", self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"done\n")

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing on stderr."""


server = ThreadingHTTPServer(("127.0.0.1", 0), Backend)
print(server.server_port, flush=True)
server.serve_forever()
