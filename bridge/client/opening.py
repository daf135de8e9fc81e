"""Opens the log of a component: of one stream, or of several streams of a mapping at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import overload

from bridge.client.component_log import CLAIM_MS, MOST_DELIVERIES, Log
from bridge.client.log_set import LogSet
from bridge.client.rotation import NEVER, Rotation
from bridge.core.config import Settings, check_component, load
from bridge.core.errors import ConfigError
from bridge.kinds.stream_family import with_streams


@overload
def open_log(
    mapping: str, component: str, *, config: str | Path | None = None, redis: str | None = None,
    start: str = "beginning", on_state: Callable[[str], object] | None = None, claim_after: float = CLAIM_MS / 1000,
    set_aside_after: int = MOST_DELIVERIES, streams: None = None, rotation: Rotation = ...,
) -> Log: ...  # fmt: skip


@overload
def open_log(
    mapping: str, component: str, *, config: str | Path | None = None, redis: str | None = None,
    start: str = "beginning", on_state: Callable[[str], object] | None = None, claim_after: float = CLAIM_MS / 1000,
    set_aside_after: int = MOST_DELIVERIES, streams: str | Sequence[str],
) -> LogSet: ...  # fmt: skip


def open_log(
    mapping: str, component: str, *, config: str | Path | None = None, redis: str | None = None,
    start: str = "beginning", on_state: Callable[[str], object] | None = None, claim_after: float = CLAIM_MS / 1000,
    set_aside_after: int = MOST_DELIVERIES, streams: str | Sequence[str] | None = None, rotation: Rotation = NEVER,
) -> Log | LogSet:  # fmt: skip
    """Opens a mapping's log for a component, which then reads messages from the log and appends messages to it.

    `mapping`: its name in bridge.toml, which is looked for as the commands do; `config`: that file, `redis`: another
    URL. `start`: from where a component reads that was never here, "beginning" or "end". `on_state` is called with
    "connected" and "reconnecting", from a thread of the log's own. What another worker of this component has not
    acknowledged within `claim_after` seconds is given to this one; what was given `set_aside_after` times and never
    acknowledged is set aside.

    `streams`, of a mapping whose logs have a stream each: the names of those to read in one loop, or a pattern, "*" for
    all. Those that come later are among them, from their beginning on. `rotation`: when the component rotates the file
    that it writes, as long as it writes one. Raises ConfigError.
    """
    if start not in ("beginning", "end"):
        raise ConfigError(f"start is 'beginning' or 'end', not {start!r}")
    at_end, claim_ms = start == "end", int(claim_after * 1000)
    settings = check_opening(mapping, component, config, redis, rotation)
    if streams is None:
        settings = with_streams(settings)
        return Log(settings, settings.mapping(mapping), component, at_end=at_end, on_state=on_state, claim_ms=claim_ms,
                   most=set_aside_after, rotation=rotation)  # fmt: skip
    chosen = settings.mapping(mapping)
    if not chosen.many_streams:
        raise ConfigError(f"mapping '{mapping}' has one stream", where=str(settings.path),
                          hint="leave `streams` out, or put {name} in its stream.key")  # fmt: skip
    return LogSet(settings, chosen, component, streams, at_end=at_end, on_state=on_state, claim_ms=claim_ms,
                  most=set_aside_after)  # fmt: skip


def check_opening(
    mapping: str, component: str, config: str | Path | None, redis: str | None, rotation: Rotation
) -> Settings:
    """Checks that a component can open a mapping's log; returns the settings of the mapping's group.

    Raises ConfigError.
    """
    settings = load(config=None if config is None else str(config), redis=redis, env=os.environ, cwd=Path.cwd())
    check_component(component)
    settings = settings.of_mapping(mapping)
    if rotation != NEVER:
        rotation.check(with_streams(settings).mapping(mapping))
    return settings
