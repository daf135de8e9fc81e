"""Notifies a service manager that the bridge is ready, alive or stopping, with the datagrams of sd_notify(3)."""

from __future__ import annotations

import socket
from collections.abc import Mapping


class ServiceNotifier:
    """Notifies the service manager over the socket that NOTIFY_SOCKET in `env` names; without that does nothing."""

    def __init__(self, env: Mapping[str, str]) -> None:
        address = env.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address

    def __call__(self, *states: str) -> None:
        """Notifies the service manager of the bridge's states, several in one datagram. Never raises.

        States are `READY=1`, `WATCHDOG=1`, `STOPPING=1` and `STATUS=…`.
        """
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            try:
                client.connect(self._address)
                client.send("\n".join(state.replace("\n", " ") for state in states).encode())
            except OSError:  # the service manager is gone or does not read: the bridge goes on
                return
