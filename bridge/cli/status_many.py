"""Lays out for `bridge status` a mapping with many streams: all of them in a few rows, and those that need a look."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge.core.wording import counted

if TYPE_CHECKING:
    from bridge.engine.status import MappingStatus, Status

FEW = 5
"""Streams of one mapping that are each shown as a mapping is; more are shown together."""

NOTED = 10
"""Most streams of a mapping with many that are shown by themselves, as something waits or is wrong there."""

WIDTH_OF_NAMES = 40


def forward_row(mappings: list[MappingStatus], found: Status, family: str) -> tuple[str, ...]:
    """Makes the row of forward, of all streams together: where from, how far, what waits, since when, and the rate."""
    from bridge.engine.headline import many
    from bridge.engine.lag import Lag

    sources = [source for mapping in mappings for source in mapping.sources]
    behind = sum((source.behind for source in sources), Lag())
    said = many(behind, "line", "lines") + (f", {counted(behind.bytes, 'byte')}" if behind.bytes else "")
    whole = sum(source.behind == Lag() and not source.error for source in sources)
    return (
        "forward",
        counted(len(sources), "log"),
        f"{whole:,} to their end",
        said,
        _age(behind, found),
        _rate(found, f"forward {family}"),
    )


def mirror_row(mappings: list[MappingStatus], found: Status, family: str) -> tuple[str, ...] | None:
    """Makes the row of the mirror, of all streams together; None: the mapping has none."""
    from bridge.engine.headline import many
    from bridge.engine.lag import Lag

    mirrors = [mapping.mirror for mapping in mappings if mapping.mirror is not None]
    if not mirrors:
        return None
    known = [mirror.behind for mirror in mirrors if mirror.behind is not None]
    behind = sum(known, Lag())
    said = many(behind, "entry", "entries") if len(known) == len(mirrors) else "not known without Redis"
    if found.running and not found.dual:
        said += ", waiting for --dual"
    whole = sum(lag == Lag() for lag in known)
    return (
        "mirror",
        counted(len(mirrors), "stream"),
        f"{whole:,} to their end",
        said,
        _age(behind, found),
        _rate(found, f"mirror {family}"),
    )


def notes(mappings: list[MappingStatus], found: Status) -> list[tuple[str, str]]:
    """Says what is to be said of many streams: of parity and quarantine of all, and of each that needs a look."""
    rows = []
    runs = [mapping.parity for mapping in mappings if mapping.parity is not None]
    if runs:
        from bridge.core.wording import duration

        verdicts = {
            verdict: sum(run.verdict == verdict for run in runs) for verdict in sorted({r.verdict for r in runs})
        }
        said = ", ".join(f"{count:,} {verdict}" for verdict, count in verdicts.items())
        said += f", {len(mappings) - len(runs):,} never looked at" if len(runs) < len(mappings) else ""
        compared, oldest = sum(run.report["compared"] for run in runs), min(run.ended for run in runs)
        ago = duration(max(0.0, found.at - oldest))
        rows.append(("parity", f"{said}, the oldest {ago} ago: {counted(compared, 'message')}"))
    aside = [sum(count for _, _, count in mapping.quarantined) for mapping in mappings if mapping.quarantined]
    if aside:
        of = counted(len(aside), "stream")
        rows.append(("quarantine", f"{counted(sum(aside), 'message')} of {of}; see `bridge quarantine list`"))
    wanting = [(mapping, why) for mapping in mappings if (why := wants(mapping))]
    rows += [(_short(mapping.name.partition(":")[2]), why) for mapping, why in wanting[:NOTED]]
    if len(wanting) > NOTED:
        rows.append(("", f"and {len(wanting) - NOTED:,} more streams with something to say"))
    return rows


def wants(mapping: MappingStatus) -> str:
    """Says in words what of one stream needs a look, or waits; empty: nothing does."""
    from bridge.engine.headline import many
    from bridge.engine.lag import Lag

    if mapping.retired is not None:
        return "retired" + (f": {mapping.error}" if mapping.error else "")
    said = [mapping.error] if mapping.error else []
    for source in mapping.sources:
        said += [source.error] if source.error else []
        said += [f"{many(source.behind, 'line', 'lines')} behind"] if source.behind != Lag() else []
    if (mirror := mapping.mirror) is not None:
        said += [mirror.error] if mirror.error else []
        said += [f"{many(mirror.behind, 'entry', 'entries')} behind"] if mirror.behind not in (None, Lag()) else []
    said += mapping.account.sentences() if mapping.account is not None else []
    said += [f"parity: {mapping.parity.verdict}"] if mapping.parity and mapping.parity.verdict != "equal" else []
    said += [f"{counted(n, 'message')} of {name} wait on disk" for name, n in sorted(mapping.outboxes.items())]
    return "; ".join(said)


def _short(name: str) -> str:
    return name if len(name) <= WIDTH_OF_NAMES else f"{name[: WIDTH_OF_NAMES - 1]}…"


def _age(behind: object, found: Status) -> str:
    from bridge.core.wording import duration

    oldest = getattr(behind, "oldest", None)
    return duration(found.at - oldest) if oldest is not None else ""


def _rate(found: Status, worker: str) -> str:
    workers = (found.heartbeat or {}).get("workers", {})
    rate = float(workers[worker]["rate"]) if found.running and worker in workers else None
    return "" if rate is None else f"{rate:,.1f}/s" if 0 < rate < 100 else f"{rate:,.0f}/s"
