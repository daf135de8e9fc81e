"""Builds the Prometheus metric families that the page `/metrics` shows: counters, gauges and a latency histogram."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

import bridge
from bridge.kinds.direction_stats import BOUNDS, DirectionStats

if TYPE_CHECKING:
    from prometheus_client import Metric

    from bridge.admin.metrics.health import DirectionHealth, Flows
    from bridge.engine.status import MappingStatus, Status

WAYS = ("mapping", "direction")
VERDICTS = ("equal", "differs", "inconclusive")


def families(
    status: Status, flows: Flows, going: Iterable[DirectionHealth], instance: str, silent: float, group: str = ""
) -> Iterator[Metric]:
    """Builds all Prometheus metric families of a bridge at one moment. Pure.

    `going`: the health of each direction; `instance`: the bridge's name; `silent`: seconds since the last heartbeat;
    `group`: the group that the process carries, empty where there is none.
    """
    ways = {way for _, way in flows}
    facts = (bridge.__version__, instance, "both" if "mirror" in ways else "forward", group)
    yield _gauge("info", "The bridge: 1.", ("version", "bridge", "carries", "group"), [(facts, 1)])
    said = "Whether Redis answers: 1, or 0."
    yield _gauge("redis_up", said, (), [((), 0 if status.redis_error else 1)])
    yield _gauge("heartbeat_age_seconds", "Since the last heartbeat; there is one every 2 s.", (), [((), silent)])
    yield from _flows(flows)
    yield from _lags(status, [*going])
    yield from _quarantine(status.mappings)
    known = [(mapping.name, mapping.account) for mapping in status.mappings if mapping.account is not None]
    said = "Bytes of files that nothing explains: no message of them is in the stream."
    rows = [((name,), float(account.sums()["unaccounted"])) for name, account in known]
    yield _gauge("unaccounted_bytes", said, ("mapping",), rows)
    said = "Entries that were removed from the stream before they were mirrored."
    yield _gauge(
        "gone_before_mirrored", said, ("mapping",), [((name,), float(mapping.gone)) for name, mapping in known]
    )
    yield from _parity(status)
    yield from _streams(status.mappings)


def _gauge(name: str, said: str, labels: Iterable[str], samples: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    family = GaugeMetricFamily(f"bridge_{name}", said, labels=[*labels])
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _flows(flows: Flows) -> Iterator[Metric]:
    def counter(name: str, said: str, values: Iterable[int]) -> Metric:
        family = CounterMetricFamily(f"bridge_{name}", said, labels=WAYS)
        for way, value in zip(flows, values, strict=True):
            family.add_metric(way, value)
        return family

    def each(name: str) -> Iterator[int]:
        return (getattr(flow, name) for flow in flows.values())

    yield counter("messages", "Messages that were carried.", each("messages"))
    yield counter("bytes", "Bytes given to the other side: requests to Redis, lines into files.", each("bytes"))
    yield counter("rejects", "Messages that were put into quarantine.", each("rejects"))
    yield counter("batches", "Transactions in Redis; writes to a file.", each("batches"))
    yield counter("retries", "What failed and was tried again.", each("retries"))
    again = (max(0, flow.connections - 1) for flow in flows.values())
    yield counter("reconnects", "Connections to Redis after the first one.", again)
    said = "From a line's end in its file, or an entry's ID, until it is on the other side. Not of history."
    family = HistogramMetricFamily("bridge_latency_seconds", said, labels=WAYS)
    for way, flow in flows.items():
        family.add_metric(way, _buckets(flow), flow.latency.total)
    yield family


def _buckets(flow: DirectionStats) -> list[tuple[str, float]]:
    bounds = [*map(str, BOUNDS), "+Inf"]
    return [(bound, float(count)) for bound, count in zip(bounds, accumulate(flow.latency.counts), strict=True)]


def _lags(status: Status, going: list[DirectionHealth]) -> Iterator[Metric]:
    known = [
        ((direction.mapping, direction.direction), direction.waiting)
        for direction in going
        if direction.waiting is not None
    ]
    said = "Messages that wait to be carried; counted up to 100,000."
    yield _gauge("lag_messages", said, WAYS, [(way, behind.messages) for way, behind in known])
    yield _gauge("lag_bytes", "Their bytes.", WAYS, [(way, behind.bytes) for way, behind in known])
    ages = [(way, max(0.0, status.at - (status.at if behind.oldest is None else behind.oldest)))
            for way, behind in known if behind.oldest is not None or not behind.messages]  # fmt: skip
    yield _gauge("lag_seconds", "The age of the first of them, by its own time; 0: none waits.", WAYS, ages)
    said = "Whether the direction moves or has nothing to do: 1, or 0. Absent: it is not carried."
    well = [
        ((direction.mapping, direction.direction), float(direction.state != "stuck"))
        for direction in going
        if direction.state != "off"
    ]
    yield _gauge("healthy", said, WAYS, well)


def _quarantine(mappings: Iterable[MappingStatus]) -> Iterator[Metric]:
    rows = [((mapping.name, direction, reason), float(count)) for mapping in mappings
            for direction, reason, count in mapping.quarantined]  # fmt: skip
    yield _gauge("quarantined_messages", "Messages in quarantine.", (*WAYS, "reason"), rows)


def _parity(status: Status) -> Iterator[Metric]:
    last = [(mapping.name, mapping.parity) for mapping in status.mappings if mapping.parity is not None]
    rows = [((name, verdict), float(run.verdict == verdict)) for name, run in last for verdict in VERDICTS]
    yield _gauge("parity_verdict", "What the last comparison found: 1 for that.", ("mapping", "verdict"), rows)
    ages = [((name,), max(0.0, status.at - run.ended)) for name, run in last]
    yield _gauge("parity_age_seconds", "Since the last comparison.", ("mapping",), ages)


def _label(name: bytes) -> str:
    """Turns a consumer group's name into the text of a Prometheus label, so that different names stay different."""
    return name.replace(b"\\", rb"\\").decode("utf-8", "backslashreplace")


def _streams(mappings: Iterable[MappingStatus]) -> Iterator[Metric]:
    sizes = [(mapping.name, mapping.size) for mapping in mappings if mapping.size is not None]
    yield _gauge("stream_entries", "Entries in the stream.", ("mapping",), [((n,), size.entries) for n, size in sizes])
    said = "Memory that the stream takes, as Redis reckons it."
    told = [((name,), float(size.bytes)) for name, size in sizes if size.bytes is not None]
    yield _gauge("stream_bytes", said, ("mapping",), told)
    groups = [((name, _label(group.name)), group) for name, size in sizes for group in size.groups or ()]
    lags = [(labels, float(group.lag)) for labels, group in groups if group.lag is not None]
    yield _gauge("group_lag_messages", "Entries that the group was not given yet.", ("mapping", "group"), lags)
    pending = [(labels, float(group.pending)) for labels, group in groups]
    said = "Entries that the group was given and did not acknowledge."
    yield _gauge("group_pending_messages", said, ("mapping", "group"), pending)
