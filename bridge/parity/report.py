"""Parity's report: says a result in words, and renders results as an HTML page. Pure.

The template escapes what the page shows of logs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge.core.model import format_id, shown
from bridge.core.wording import counted, duration
from bridge.parity.acknowledgements import TakenOut
from bridge.parity.log.classify import Difference
from bridge.parity.log.items import SHIFT
from bridge.parity.result import ParityResult, verdict_of_all
from bridge.parity.snapshot import NOT_RUNNING

WORDS = {
    "missing_in_redis": "missing in Redis",
    "missing_in_file": "missing in the file",
    "altered": "altered",
    "duplicate": "twice",
    "reordered": "out of order",
}
SHOWN_DIFFERENCES = 1000
"""How many differences of each mapping the report's page shows."""

LONGEST_LINE = 4000
"""How many characters of a line the report's page shows."""


def verdict_in_words(result: ParityResult) -> str:
    """Says parity's verdict on a mapping in one plain sentence for the report."""
    tally = result.tally
    if result.verdict == "equal":
        if not tally.compared:
            return "Equal: both sides are empty"
        late = f" but for {tally.late:,} that came late" if tally.late else ""
        known = tally.acknowledged + tally.redacted + tally.unproved
        more = f"; {counted(known, 'difference')} acknowledged" if known else ""
        return f"Equal: {counted(tally.compared, 'message')}, each once on both sides, in order{late}{more}"
    if result.verdict == "differs":
        total = sum(result.counts().values())
        lost = sum(size for _, _, size, _ in result.account.unaccounted()) if result.account is not None else 0
        if lost and not total:
            same = f"{counted(tally.compared, 'message')} {'is' if tally.compared == 1 else 'are'} the same"
            return f"Differs: {counted(lost, 'byte')} of the files are unaccounted; {same} on both sides"
        verb = "is" if total == 1 else "are"
        return f"Differs: {counted(total, 'message')} {verb} not the same on both sides; {tally.compared:,} are"
    if tally.unverifiable:
        what = "what could be compared is equal" if tally.compared else "nothing could be compared"
        return f"Inconclusive: {what}; {counted(tally.unverifiable, 'message')} cannot be compared"
    if result.notes and not result.tally.entries:
        return f"Inconclusive: {result.notes[0]}"
    return "Inconclusive: nothing was compared"


SHOWN_PLACES = 5
"""Of how many files the report tells the position; of the others it tells only how many they are. `--json` has all."""


def facts(result: ParityResult, now: float) -> list[str]:
    """Lists the other facts of a parity result, beside the verdict, one line of the report each."""
    tally, said = result.tally, []
    if tally.compared:
        said.append(f"{tally.file_born:,} file-born, {tally.redis_born:,} Redis-born")
    if result.files or tally.entries:
        places = [f"{shown(os.fsencode(name))} {result.unit} {at:,}" for name, at in sorted(result.files.items())]
        if len(places) > SHOWN_PLACES:
            places = [*places[:SHOWN_PLACES], f"{len(places) - SHOWN_PLACES:,} more files"]
        said.append(f"up to {', '.join([*places, 'entry ' + format_id(result.entry).decode()])}")
    if tally.in_flight:
        age = f", the oldest dated {duration(now - tally.oldest_ms / 1000)} ago" if tally.oldest_ms else ""
        stays = "; they wait until the bridge runs" if NOT_RUNNING in result.notes else ""
        said.append(f"{tally.in_flight:,} in flight{age}{stays}")
    if tally.not_mirrored:
        said.append(f"{tally.not_mirrored:,} Redis-born not mirrored")
    if result.account is not None:
        said += result.account.sentences()
        if result.account.gone:
            said.append(f"{result.account.gone:,} removed from the stream before they were mirrored: no file has them")
    if tally.quarantined:
        said.append(f"{tally.quarantined:,} in quarantine (`bridge quarantine list`)")
    if tally.late:
        said.append(f"{tally.late:,} late: out of order, by a retry, a repair, a refill or an edit, and marked so")
    if tally.acknowledged:
        said.append(f"{counted(tally.acknowledged, 'difference')} acknowledged (`bridge journal` says by whom and why)")
    if tally.unproved:
        said.append(
            f"{counted(tally.unproved, 'line')} passed over on somebody's word (`--as-edit`), compared with nothing"
        )
    if tally.redacted:
        said.append(f"{counted(tally.redacted, 'entry', 'entries')} deleted on purpose, by `bridge redact`")
    for row in tally.taken_out[:ROWS]:
        said.append(_taken_out(row))
    if len(tally.taken_out) > ROWS:
        said.append(f"{len(tally.taken_out) - ROWS:,} more rows of lines that were changed or taken out")
    if tally.unordered:
        said.append(f"{tally.unordered:,} by components that write both sides, compared without order")
    if tally.foreign:
        said.append(f"{counted(tally.foreign, 'line')} of others in files that only the mirror writes")
    if tally.rewritten:
        many = counted(tally.rewritten, "file")
        said.append(f"{many} rewritten since, the same message by its identity")
    if tally.taken_away:
        said.append(
            f"{counted(tally.taken_away, 'message')} whose file was taken away since; the entry is what was sent"
        )
    if tally.copies:
        said.append(f"{counted(tally.copies, 'file')} with a message that another file holds too")
    said += [f"{why}: {counted(count, 'message')}" for why, count in tally.why.items()]
    return said + [note for note in result.notes if note not in tally.why]


ROWS = 5
"""How many rows of entries whose lines were taken out the report lists one by one."""


def _taken_out(row: TakenOut) -> str:
    """Says in the parity report which entries' lines were changed or taken out, and how that is acknowledged."""
    first, last = format_id(row.first).decode(), format_id(row.last).decode()
    which = first if row.count == 1 else f"{first}..{last}"
    many = counted(row.count, "line")
    was = "was" if row.count == 1 else "were"
    return f"{many} {was} changed or taken out of the log: `bridge repair --accept {which} --reason …` acknowledges it"


def what_to_try(results: Sequence[ParityResult]) -> str:
    """Tells the reader of a parity report what to do about the differences."""
    taken_out = sum(row.count for result in results for row in result.tally.taken_out)
    total = sum(sum(result.counts().values()) for result in results)
    if taken_out and taken_out == total:
        return "lines were changed or taken out of a log; if that was meant, acknowledge it as said above"
    return "`bridge repair` says what can be mended"


def counts_in_words(result: ParityResult) -> str:
    """Says how many differences of each kind parity found: `1 altered, 2 missing in Redis`."""
    return ", ".join(f"{count:,} {WORDS[kind]}" for kind, count in result.counts().items() if count)


def where(difference: Difference) -> str:
    """Names in the parity report where a difference is: file, line, byte and entry, as far as they are known."""
    parts = []
    if difference.file is not None:
        line = f" line {difference.line:,}" if difference.line is not None else ""
        at = f", byte {difference.offset:,}" if difference.offset is not None else ""
        if difference.line is None and at and difference.place >= 0:
            at += f" of generation {difference.place >> SHIFT}"
        parts.append(f"{shown(os.fsencode(difference.file))}{line}{at}")
    if difference.entry is not None:
        parts.append(f"entry {difference.entry}")
    return " · ".join(parts)


def sides(difference: Difference) -> tuple[bytes | None, bytes | None]:
    """Returns a difference's message in the file, and in Redis, for the parity report; None: that side has none."""
    if difference.kind == "missing_in_redis":
        return difference.expected, None
    if difference.kind == "missing_in_file":
        return None, difference.expected
    if difference.kind == "duplicate":
        return (difference.actual, None) if difference.entry is None else (None, difference.actual)
    if difference.kind == "altered" and difference.file_born:
        return difference.expected, difference.actual
    return difference.actual, difference.expected


def without(difference: Difference) -> str:
    """Returns the report's words for the side of a difference that does not have the message."""
    return "once, not twice" if difference.kind == "duplicate" else "nothing"


# -- the page -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DifferingText:
    """A stretch of a line in the parity report; `differs`: the other side has another stretch in its place."""

    text: str
    differs: bool


def marked(ours: bytes | None, theirs: bytes | None) -> list[DifferingText]:
    """Splits one side's line for the report, and marks the stretch that the other side does not have. Pure."""
    if ours is None:
        return []
    if theirs is None or ours == theirs:
        return [DifferingText(shown(ours, LONGEST_LINE), False)]
    shorter = min(len(ours), len(theirs))
    head = next((i for i in range(shorter) if ours[i] != theirs[i]), shorter)
    tail = next((i for i in range(shorter - head) if ours[-1 - i] != theirs[-1 - i]), shorter - head)
    parts = ((ours[:head], False), (ours[head : len(ours) - tail], True), (ours[len(ours) - tail :], False))
    return [DifferingText(shown(raw, LONGEST_LINE), differs) for raw, differs in parts if raw]


def page(results: Sequence[ParityResult], now: float) -> str:
    """Renders parity results as one HTML report page that loads no script, font or picture from elsewhere."""
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("parity.html").render(
        verdict=verdict_of_all(results), at=time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(now)),
        mappings=[_mapping(result, now) for result in results],
    )  # fmt: skip


def _mapping(result: ParityResult, now: float) -> dict[str, Any]:
    listed = result.tally.differences[:SHOWN_DIFFERENCES]
    return {
        "name": result.mapping, "stream": result.stream, "verdict": result.verdict, "said": verdict_in_words(result),
        "warnings": result.warnings(), "facts": facts(result, now),
        "counts": {WORDS[kind]: n for kind, n in result.counts().items()},
        "digest": result.tally.digest, "seconds": f"{result.seconds:.1f}",
        "chart": _chart(result), "kinds": _kinds(result),
        "left_out": sum(result.counts().values()) - len(listed),
        "differences": [
            {"number": n, "kind": WORDS[d.kind], "slug": d.kind, "where": where(d),
             "file": marked(*sides(d)), "redis": marked(*sides(d)[::-1]), "without": without(d)}
            for n, d in enumerate(listed, 1)
        ],
    }  # fmt: skip


def _kinds(result: ParityResult) -> list[tuple[str, str, int, int, int]]:
    """Counts messages by role and type for the report's table: on both sides, in the file alone, in Redis alone."""
    both = dict(result.stats.kinds) if result.stats is not None else {}
    alone: dict[tuple[str, str], list[int]] = {}
    for difference in result.tally.differences:
        file, redis = sides(difference)
        row = difference.row
        if (file is None) != (redis is None) and len(row) >= 3:
            counts = alone.setdefault((shown(row[0], 40), shown(row[2], 40)), [0, 0])
            counts[file is None] += 1
    names = sorted({*both, *alone}, key=lambda name: (-both.get(name, 0), name))
    return [(role, kind, both.get((role, kind), 0), *alone.get((role, kind), [0, 0])) for role, kind in names[:200]]  # type: ignore[misc]


LINE_WIDTH, HIGH = 960, 60


def _chart(result: ParityResult) -> dict[str, Any] | None:
    """Computes the report's bar chart of both sides over time, with marks for differences; None: nothing to draw."""
    if result.stats is None:
        return None
    timeline = result.stats.timeline
    alone: dict[int, list[int]] = {}
    marks: dict[int, list[int]] = {}
    for number, difference in enumerate(result.tally.differences, 1):
        if difference.time_ms <= 0:
            continue
        bucket = difference.time_ms // timeline.width
        file, redis = sides(difference)
        counts = alone.setdefault(bucket, [0, 0])
        counts[0] += file is not None
        counts[1] += redis is not None
        marks.setdefault(bucket, []).append(number)
    buckets = {*timeline.counts, *alone}
    if not buckets:
        return None
    first, last = min(buckets), max(buckets)
    if last - first > 10_000:  # a difference dated far away would leave one bar of all the others
        first, last = min(timeline.counts, default=first), max(timeline.counts, default=last)
        buckets = {bucket for bucket in buckets if first <= bucket <= last}
    step = LINE_WIDTH / (last - first + 1)
    counted = {bucket: timeline.counts[bucket] for bucket in buckets}
    most = max(max(counted[b] + max(alone.get(b, (0, 0))) for b in buckets), 1)

    def bar(bucket: int, side: int) -> float:
        return HIGH * (counted[bucket] + alone.get(bucket, (0, 0))[side]) / most

    return {
        "wide": LINE_WIDTH, "high": HIGH, "step": max(step * 0.9, 0.5), "from": _moment(first * timeline.width),
        "to": _moment((last + 1) * timeline.width), "bucket": duration(timeline.width / 1000), "most": most,
        "bars": [
            {"x": (b - first) * step, "file": bar(b, 0), "redis": bar(b, 1), "count": counted[b],
             "marks": len(marks.get(b, ())), "first": marks.get(b, [0])[0]}
            for b in sorted(buckets)
        ],
    }  # fmt: skip


def _moment(ms: int) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(ms / 1000)) + " UTC"
    except (OverflowError, ValueError, OSError):
        return f"{ms} ms"
