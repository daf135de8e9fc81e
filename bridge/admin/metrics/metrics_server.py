"""Serves the pages `/metrics` and `/healthz` over HTTP on a loopback port, beside a running bridge."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any, cast

from bridge.admin.metrics.health import DirectionHealth, Health
from bridge.admin.metrics.together import health_together, status_together
from bridge.core.config import Settings
from bridge.core.errors import BridgeError, ConfigError
from bridge.core.logger import logger
from bridge.engine.run import Process
from bridge.engine.status import Status, sample
from bridge.kinds.stream_family import with_streams
from bridge.ledger.heartbeat import Trouble

if TYPE_CHECKING:
    from prometheus_client import Metric
    from prometheus_client.registry import Collector

HOST = "127.0.0.1"
LOOK_SECONDS, LOOK_SHARE, LONG_LOOK = 2.0, 20.0, 10.0
"""Seconds between two looks at files, ledger and Redis: at least, as a multiple of one look's time, and at most."""

BLIND = 30.0
"""Seconds since the end of the last look after which both pages answer with an error."""

SLOW = 10.0
"""Seconds that a client of the metrics server has for its whole connection."""

MOST_CLIENTS = 16
"""Clients at once; the metrics server turns more away, because it shares its file descriptors with the carrying."""

WANTED = "pip install 'hestai-bridge[metrics]', or take [metrics] out of bridge.toml"


class Monitor:
    """Makes the content of the pages `/metrics` and `/healthz` from the last look at the bridge's status.

    Safe for several threads.
    """

    def __init__(self, settings: Settings, process: Process) -> None:
        self._settings = settings
        self._process = process
        self._health = Health(time.monotonic)
        self._last: tuple[Status, list[DirectionHealth]] | None = None
        self._error = "nobody has looked yet"
        self._at = time.monotonic()

    def look(self) -> float:
        """Samples the status and health of the bridge once; returns the seconds until the monitor's next look."""
        begun = time.monotonic()
        try:
            waits = {
                worker: Trouble(trouble.plain, "", trouble.since)
                for worker, trouble in self._process.troubles.now().items()
            }
            status = sample(with_streams(self._settings), time.time, mirrors=self._process.dual, waits=waits)
            going = self._health.judge(status, self._process.flows(), self._process.silent())
            families = {mapping.name: mapping.family for mapping in status.mappings}
            self._last = status_together(status), health_together(going, families)
            self._error = ""
        except BridgeError as error:
            self._error = error.plain
        except Exception:  # noqa: BLE001 - a page that cannot be made is no reason to carry no messages
            if self._error != "the look failed, see the log":
                self._error = "the look failed, see the log"
                logger.exception("metrics: the look failed; the bridge goes on")
        self._at = time.monotonic()
        return min(LONG_LOOK, max(LOOK_SECONDS, LOOK_SHARE * (self._at - begun)))

    @property
    def wrong(self) -> str:
        """Why the monitor has no current status for the pages; empty: it has one."""
        ago = time.monotonic() - self._at
        return self._error or (f"the last look ended {ago:.0f} s ago" if ago > BLIND else "")

    def collect(self) -> Iterator[Metric]:
        """Yields the Prometheus metric families of the last look; prometheus-client's registry calls this."""
        from bridge.admin.metrics.families import families

        if self._last is not None:
            status, going = self._last
            yield from families(status, self._process.flows(), going, self._settings.instance,
                                self._process.silent(), self._settings.group)  # fmt: skip

    def healthz(self) -> tuple[int, bytes]:
        """Makes the HTTP status code and the JSON of the page `/healthz`: 200 where no direction is stuck, else 503."""
        if self.wrong or self._last is None:
            return 503, _json({"healthy": False, "error": self.wrong, "directions": []})
        going = self._last[1]
        healthy = all(direction.state != "stuck" for direction in going)
        rows = [
            {
                "mapping": direction.mapping,
                "direction": direction.direction,
                "state": direction.state,
                "waiting": direction.waiting.messages if direction.waiting is not None else None,
                "why": direction.why or None,
            }
            for direction in going
        ]
        return 200 if healthy else 503, _json({"healthy": healthy, "error": None, "directions": rows})


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


class Server(ThreadingHTTPServer):
    """Serves the metrics pages over HTTP to few clients at a time, each for a short time.

    The server shares its file descriptors with the threads that carry messages.
    """

    request_queue_size = 128

    def __init__(self, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self._lock = Lock()
        self._since: dict[socket.socket, float] = {}
        super().__init__((HOST, port), handler)

    def server_bind(self) -> None:
        """Binds the metrics server's socket, without the reverse DNS lookup that the base class makes."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.server_address[1]

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accepts a client's connection to the metrics server; waits 0.1 s where no descriptor is left for it."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(0.1)
            raise

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Accepts a request to the metrics server only while fewer than `MOST_CLIENTS` clients are connected."""
        with self._lock:
            if len(self._since) < MOST_CLIENTS:
                self._since[request] = time.monotonic()
                return True
        return False

    def shutdown_request(self, request: Any) -> None:
        """Closes a client's connection to the metrics server, and no longer counts the client."""
        with self._lock:
            self._since.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Disconnects, every half second, clients of the metrics server that take too long; so their threads end."""
        with self._lock:
            late = [slow_client for slow_client, since in self._since.items() if time.monotonic() - since > SLOW]
        for client in late:
            try:
                client.shutdown(socket.SHUT_RDWR)
            except OSError:  # it has just ended
                continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs, for debugging only, a request to the metrics server that failed, so that the bridge goes on."""
        logger.debug("metrics: a request failed", exc_info=True)


class MetricsServer:
    """Serves `/metrics` and `/healthz` on the loopback port that bridge.toml's `[metrics]` names.

    Its socket is bound by the constructor, so that a port in use is reported before the bridge begins to carry.
    """

    def __init__(self, settings: Settings, process: Process) -> None:
        """Binds the metrics server's port, and registers the monitor with a Prometheus registry.

        Raises ConfigError: the port is taken, or the extra `metrics` is not installed.
        """
        try:
            from prometheus_client import CollectorRegistry, ProcessCollector
            from prometheus_client.exposition import choose_encoder
        except ImportError:
            said = "[metrics] needs prometheus-client, which is not installed"
            raise ConfigError(said, where=str(settings.path), hint=WANTED) from None
        self._monitor = monitor = Monitor(settings, process)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(cast("Collector", monitor))
        ProcessCollector(registry=registry)

        class Handler(BaseHTTPRequestHandler):
            timeout = SLOW
            server_version, sys_version = "bridge", ""

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path == "/metrics" and monitor.wrong:
                    self._give(503, f"{monitor.wrong}\n".encode(), "text/plain; charset=utf-8")
                elif path == "/metrics":
                    encode, kind = choose_encoder(self.headers.get("Accept", ""))
                    self._give(200, encode(registry), kind)
                elif path == "/healthz":
                    self._give(*monitor.healthz(), "application/json")
                else:
                    self._give(404, b"here are /metrics and /healthz\n", "text/plain; charset=utf-8")

            do_HEAD = do_GET

            def _give(self, code: int, body: bytes, kind: str) -> None:
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                logger.debug("metrics: %s", format % args)

        try:
            self._server = Server(settings.metrics_port or 0, Handler)
        except OSError as error:
            said = f"the metrics' port {settings.metrics_port} cannot be had: {error.strerror}"
            hint = "choose another in [metrics], or 0 for any"
            raise ConfigError(said, where=str(settings.path), hint=hint) from None
        self.url = f"http://{HOST}:{self._server.server_address[1]}"

    def serve(self, settings: Settings, stop: Event) -> None:
        """Serves the metrics pages from a thread, and keeps the monitor looking, until the stop event."""
        with self._server:
            thread = Thread(target=self._server.serve_forever, name="metrics pages", daemon=True)
            thread.start()
            logger.info("metrics are at %s/metrics, health at %s/healthz", self.url, self.url)
            while not stop.wait(self._monitor.look()):
                pass
            self._server.shutdown()
