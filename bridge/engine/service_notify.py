"""Telling a service manager that we are ready, alive, or stopping: sd_notify(3)'s datagrams."""

from __future__ import annotations

import socket
from collections.abc import Mapping


class ServiceNotifier:
    """Says nothing where nobody asked: without NOTIFY_SOCKET in `env`."""

    def __init__(self, env: Mapping[str, str]) -> None:
        address = env.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address

    def __call__(self, *states: str) -> None:
        """`READY=1`, `WATCHDOG=1`, `STOPPING=1`, `STATUS=…`; several go in one datagram. Never raises."""
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            try:
                client.connect(self._address)
                client.send("\n".join(state.replace("\n", " ") for state in states).encode())
            except OSError:  # it is gone, or does not read: that is its own affair
                return
