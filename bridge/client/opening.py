"""Opens the log of a component: of one stream, or of several streams of a mapping at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import overload

from bridge.client.component_log import CLAIM_MS, MOST_DELIVERIES, Log
from bridge.client.log_set import LogSet
from bridge.client.rotation import NEVER, Rotation
from bridge.client.start import Start
from bridge.core.config import Settings, check_component, load
from bridge.core.errors import ConfigError, RedisLost, RedisRefused
from bridge.core.logger import logger
from bridge.kinds.stream_family import with_streams
from bridge.streams.dial import dialler
from bridge.streams.replicas import check_disk


@overload
def open_log(
    mapping: str, component: str, *, config: str | Path | None = None, redis: str | None = None,
    start: str | datetime | int = "beginning", on_state: Callable[[str], object] | None = None,
    claim_after: float = CLAIM_MS / 1000, set_aside_after: int = MOST_DELIVERIES,
    streams: None = None, rotation: Rotation = ..., durable: bool = False,
) -> Log: ...  # fmt: skip


@overload
def open_log(
    mapping: str, component: str, *, config: str | Path | None = None, redis: str | None = None,
    start: str | datetime | int = "beginning", on_state: Callable[[str], object] | None = None,
    claim_after: float = CLAIM_MS / 1000, set_aside_after: int = MOST_DELIVERIES,
    streams: str | Sequence[str],
) -> LogSet: ...  # fmt: skip


def open_log(
    mapping: str, component: str, *, config: str | Path | None = None, redis: str | None = None,
    start: str | datetime | int = "beginning", on_state: Callable[[str], object] | None = None,
    claim_after: float = CLAIM_MS / 1000, set_aside_after: int = MOST_DELIVERIES,
    streams: str | Sequence[str] | None = None, rotation: Rotation = NEVER,
    durable: bool = False,
) -> Log | LogSet:  # fmt: skip
    """Opens a mapping's log for a component, which then reads messages from the log and appends messages to it.

    `mapping`: its name in bridge.toml, which is looked for as the commands do; `config`: that file, `redis`: another
    URL. `start`: from where a component reads that was never here, "beginning", "end", a time, a byte of the file, or
    the ID of an entry. `on_state` is called with
    "connected" and "reconnecting", from a thread of the log's own. What another worker of this component has not
    acknowledged within `claim_after` seconds is given to this one; what was given `set_aside_after` times and never
    acknowledged is set aside.

    `streams`, of a mapping whose logs have a stream each: the names of those to read in one loop, or a pattern, "*" for
    all. Those that come later are among them, from their beginning on. `rotation`: when the component rotates the file
    that it writes, as long as it writes one. `durable`: every message is appended so (`Log.append`).

    Raises ConfigError; Unfit: the server cannot say what is on its disk.
    """
    begin, claim_ms = Start.parsed(start), int(claim_after * 1000)
    settings = check_opening(mapping, component, config, redis, rotation)
    if streams is None:
        settings = with_streams(settings)
        if durable:
            _check_durable(settings, settings.mapping(mapping).stream.key)
        return Log(settings, settings.mapping(mapping), component, start=begin, on_state=on_state, claim_ms=claim_ms,
                   most=set_aside_after, rotation=rotation, durable=durable)  # fmt: skip
    chosen = settings.mapping(mapping)
    if not chosen.many_streams:
        raise ConfigError(f"mapping '{mapping}' has one stream", where=str(settings.path),
                          hint="leave `streams` out, or put {name} in its stream.key")  # fmt: skip
    if begin.is_place:
        raise ConfigError("several streams start at a time, at their beginning or their end, not at one place")
    if durable:
        _check_durable(settings, chosen.stream.key)
    return LogSet(settings, chosen, component, streams, start=begin, on_state=on_state, claim_ms=claim_ms,
                  most=set_aside_after, durable=durable)  # fmt: skip


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


def _check_durable(settings: Settings, stream: str) -> None:
    """Checks that a component's messages can be sure to be on disk, where the server answers. Raises Unfit."""
    if settings.replicas:
        return
    try:
        with closing(dialler(settings, stream, may_start=False)()) as connection:
            check_disk(connection)
    except (RedisLost, RedisRefused) as error:
        logger.debug("%s: whether the server can say what is on its disk is not known yet", error)
