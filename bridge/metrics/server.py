"""`/metrics` and `/healthz` on a loopback port, beside a bridge that runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any

from bridge.config import Settings
from bridge.errors import BridgeError, ConfigError
from bridge.log import log
from bridge.metrics.health import Going, Health
from bridge.status import sample

if TYPE_CHECKING:
    from prometheus_client import Metric

    from bridge.carry.flow import Flow

HOST = "127.0.0.1"
FRESH = 1.0
"""Seconds in which everybody who asks is given the same look: it reads files, ledger and Redis."""

SLOW = 10.0
"""Seconds a client has to say what it wants."""

WANTED = "pip install 'hestai-bridge[metrics]', or take [metrics] out of bridge.toml"


class Monitor:
    """What both pages say. Safe for several threads."""

    def __init__(self, settings: Settings, flows: Callable[[], Iterable[tuple[str, str, Flow]]]) -> None:
        self._settings = settings
        self._flows = flows
        self._health = Health(time.monotonic)
        self._lock = Lock()
        self._until = -FRESH
        self._said: tuple[list[Metric], list[Going]] = ([], [])

    def collect(self) -> Iterator[Metric]:
        """For a registry of prometheus-client."""
        yield from self._look()[0]

    def healthz(self) -> tuple[int, bytes]:
        """Status code and JSON."""
        try:
            going = self._look()[1]
        except BridgeError as error:
            return 503, _json({"healthy": False, "error": str(error), "hint": error.hint})
        healthy = all(one.state != "stuck" for one in going)
        rows = [
            {"mapping": one.mapping, "direction": one.direction, "state": one.state,
             "waiting": one.waiting.messages if one.waiting is not None else None, "why": one.why or None}
            for one in going
        ]  # fmt: skip
        return 200 if healthy else 503, _json({"healthy": healthy, "directions": rows})

    def _look(self) -> tuple[list[Metric], list[Going]]:
        from bridge.metrics.families import families

        with self._lock:
            if time.monotonic() >= self._until:
                flows = {(mapping, direction): flow for mapping, direction, flow in self._flows()}
                status = sample(self._settings, time.time)
                going = self._health.judge(status, flows)
                self._said = [*families(status, flows, going)], going
                self._until = time.monotonic() + FRESH
            return self._said


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


class MetricsServer:
    """Bound when it is made, so that a port which is taken is known before anything is carried."""

    def __init__(self, settings: Settings, flows: Callable[[], Iterable[tuple[str, str, Flow]]]) -> None:
        """Raises ConfigError: the port is taken, or the extra `metrics` is not installed."""
        try:
            from prometheus_client import CollectorRegistry, ProcessCollector
            from prometheus_client.exposition import choose_encoder
        except ImportError:
            said = "[metrics] needs prometheus-client, which is not installed"
            raise ConfigError(said, where=str(settings.path), hint=WANTED) from None
        monitor, registry = Monitor(settings, flows), CollectorRegistry(auto_describe=False)
        registry.register(monitor)
        ProcessCollector(registry=registry)

        class Handler(BaseHTTPRequestHandler):
            timeout = SLOW
            server_version, sys_version = "bridge", ""

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path == "/metrics":
                    encode, kind = choose_encoder(self.headers.get("Accept", ""))
                    try:
                        self._give(200, encode(registry), kind)
                    except BridgeError as error:
                        self._give(503, f"{error}\n".encode(), "text/plain; charset=utf-8")
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
                log.debug("metrics: %s", format % args)

        class Server(ThreadingHTTPServer):
            def server_bind(self) -> None:
                """As the base class's, which asks the network for this address's name."""
                TCPServer.server_bind(self)
                self.server_name, self.server_port = HOST, self.server_address[1]

            def handle_error(self, request: object, client_address: object) -> None:
                """A client that goes away is no concern; anything else is told, and the bridge goes on."""
                log.debug("metrics: a request failed", exc_info=True)

        try:
            self._server = Server((HOST, settings.metrics_port or 0), Handler)
        except OSError as error:
            said = f"the metrics' port {settings.metrics_port} cannot be had: {error.strerror}"
            raise ConfigError(
                said, where=str(settings.path), hint="choose another in [metrics], or 0 for any"
            ) from None
        self.url = f"http://{HOST}:{self._server.server_address[1]}"

    def serve(self, settings: Settings, stop: Event) -> None:
        """Until the stop event."""
        with self._server:
            thread = Thread(target=self._server.serve_forever, name="metrics", daemon=True)
            thread.start()
            log.info("metrics are at %s/metrics, health at %s/healthz", self.url, self.url)
            stop.wait()
            self._server.shutdown()
