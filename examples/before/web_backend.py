"""A web backend with threads, that logs each request through `logging`, and rotates its log at midnight."""

import logging
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from logging.handlers import TimedRotatingFileHandler

log = logging.getLogger("backend")
log.setLevel(logging.INFO)
handler = TimedRotatingFileHandler("messages.log", when="midnight", backupCount=90)
handler.setFormatter(logging.Formatter("ui|%(asctime)s|%(levelname)s|%(message)s", "%Y-%m-%dT%H:%M:%S%z"))
log.addHandler(handler)


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
