"""All checks in the order in which they are told."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing

from bridge.config import Settings, masked
from bridge.doctor import machine, own, server
from bridge.doctor.finding import Finding, asked
from bridge.errors import BridgeError
from bridge.server import embedded
from bridge.streams.connect import Connection


def examine(settings: Settings, dial: Callable[[], Connection]) -> list[Finding]:
    """Looks at everything once; starts nothing, changes nothing. What cannot be looked at is unknown."""
    findings: list[Finding] = []
    try:
        with closing(dial()) as connection:
            findings += server.examine(connection, settings, time.time)
            findings.append(asked("components", lambda: own.look_at_components(connection, settings)))
            findings.append(asked("groups", lambda: own.look_at_groups(connection, settings)))
    except BridgeError as error:
        said = f"{masked(settings.redis_url)}: {error.what}"
        # One of our own that nobody has started yet is no fault: who needs it starts it.
        mine = settings.redis_url == "embedded" and not embedded.running(settings.state_dir)
        hint = error.hint or "is it running, and is the url right?"
        findings = [Finding("server", "note" if mine else "bad", said, hint)]
    found, files = machine.examine(settings)
    return [*findings, *found, *own.examine(settings, files)]
