"""Adds up, for metrics, what is known of a mapping's many streams: thousands of them are no labels of a dashboard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from bridge.admin.metrics.health import DirectionHealth
from bridge.engine.account.inventory import together as accounts_together
from bridge.engine.lag import Lag
from bridge.engine.status import MappingStatus, Status, StreamSize
from bridge.ledger.parity_runs import WORST
from bridge.streams.reader import GroupInfo


def status_together(status: Status) -> Status:
    """Returns the status with one mapping in the place of all streams of a mapping with many."""
    groups: dict[str, list[MappingStatus]] = {}
    for mapping in status.mappings:
        groups.setdefault(mapping.family, []).append(mapping)
    folded = [_mapping(name, group) if group[0].name != name else group[0] for name, group in groups.items()]
    return replace(status, mappings=folded)


def health_together(going: Sequence[DirectionHealth], families: dict[str, str]) -> list[DirectionHealth]:
    """Adds up the health of the directions of many streams: stuck where one is, moving where one is.

    `families`: the mapping with many streams of each stream, by the stream's name.
    """
    found: dict[tuple[str, str], DirectionHealth] = {}
    for direction in going:
        family = families.get(direction.mapping, direction.mapping)
        if family == direction.mapping:
            found[family, direction.direction] = direction
            continue
        why = f"{direction.mapping}: {direction.why}" if direction.why else ""
        this = replace(direction, mapping=family, why=why)
        before = found.get((family, direction.direction))
        found[family, direction.direction] = this if before is None else _both(before, this)
    return list(found.values())


def _both(first: DirectionHealth, second: DirectionHealth) -> DirectionHealth:
    order = ("stuck", "moving", "idle", "off")
    worse = first if order.index(first.state) <= order.index(second.state) else second
    known = first.waiting is not None and second.waiting is not None
    waiting = (first.waiting or Lag()) + (second.waiting or Lag()) if known else None
    return replace(worse, waiting=waiting)


def _mapping(name: str, group: Sequence[MappingStatus]) -> MappingStatus:
    aside = Counter[tuple[str, str]]()
    for mapping in group:
        for direction, reason, count in mapping.quarantined:
            aside[direction, reason] += count
    runs = sorted((m.parity for m in group if m.parity is not None), key=lambda run: run.ended)
    worst = min(runs, key=lambda run: WORST.index(run.verdict), default=None)
    return MappingStatus(
        name, name, name,
        error=next((f"{mapping.name}: {mapping.error}" for mapping in group if mapping.error), ""),
        sources=[source for mapping in group for source in mapping.sources],
        quarantined=[(direction, reason, count) for (direction, reason), count in aside.most_common()],
        parity=worst,
        account=accounts_together([mapping.account for mapping in group if mapping.account is not None]),
        size=_size([mapping.size for mapping in group if mapping.size is not None]),
    )  # fmt: skip


def _size(sizes: Sequence[StreamSize]) -> StreamSize | None:
    if not sizes:
        return None
    groups: dict[bytes, GroupInfo] = {}
    for group in (group for size in sizes for group in size.groups or ()):
        known = groups.get(group.name)
        if known is not None:
            lag = None if group.lag is None or known.lag is None else group.lag + known.lag
            more = max(group.consumers, known.consumers)
            groups[group.name] = group._replace(lag=lag, pending=group.pending + known.pending, consumers=more)
        else:
            groups[group.name] = group
    memory = None if any(size.bytes is None for size in sizes) else sum(size.bytes or 0 for size in sizes)
    told = None if any(size.groups is None for size in sizes) else tuple(groups.values())
    return StreamSize(sum(size.entries for size in sizes), memory, told)
