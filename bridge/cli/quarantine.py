"""The commands `bridge quarantine list|show|retry|acknowledge|export`, for messages that could not be translated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bridge.cli.common import Options, Verbs, emit, emit_line, mapping_names, options, verb
from bridge.cli.each_group import each_group, shares
from bridge.core.model import as_json
from bridge.core.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bridge.core.config import Settings
    from bridge.core.mapping import Mapping
    from bridge.ledger.quarantine import QuarantinedMessage
    from bridge.ledger.store import Ledger

NUMBER = click.IntRange(1, (1 << 63) - 1)
SHOWN_CHARACTERS = 10_000
"""Most characters of a message that `quarantine show` prints; `quarantine export` gives all of them."""


@click.group("quarantine", cls=Verbs, short_help="See and retry what could not be translated")
@options
def command(**_: object) -> None:
    """See and retry what could not be translated: kept whole, with its place and the reason."""


@command.command("list")
@click.argument("mappings", nargs=-1, metavar="[MAPPING]...", shell_complete=mapping_names)
@click.option("--all", "everything", is_flag=True, help="What a retry has brought over as well")
@verb
def list_(given: Options, mappings: tuple[str, ...], everything: bool) -> None:
    """Each with its number, place and reason, oldest first, and how it begins."""
    from bridge.cli.screen import console, safe
    from bridge.core.model import shown

    parts = shares(given, mappings)
    if given.as_json:
        emit(
            [
                _facts(mapping, quarantined_message) | group | {"begins": as_json(quarantined_message.raw)}
                for part, names in parts for group in [{"group": part.group} if len(parts) > 1 else {}]
                for mapping, quarantined_message in _found(part, names, everything)
            ]
        )  # fmt: skip
        return
    out, total = console(), 0
    for part, (_, quarantined) in [
        (group, found) for group, names in parts for found in _found(group, names, everything)
    ]:
        total += 1
        gone = f" (now {quarantined.retried})" if quarantined.retried else ""
        number = f"{quarantined.number}" + (f" --group {part.group or chr(34) * 2}" if len(parts) > 1 else "")
        out.print(safe(f"{number}  {_where(quarantined)}  {quarantined.reason}{gone}"), soft_wrap=True)
        out.print(safe(f"   {shown(quarantined.raw)}", "dim"), no_wrap=True, overflow="ellipsis", soft_wrap=False)
    said = "`bridge quarantine show NUMBER` has all of one, `bridge quarantine retry` tries again"
    click.echo(f"{counted(total, 'message')}: {said}" if total else "nothing is in quarantine")


@command.command("show")
@click.argument("number", type=NUMBER)
@verb
@each_group(alone="number")
def show(given: Options, number: int) -> None:
    """All that is known of one, and the message itself."""
    from bridge.cli.screen import console, safe
    from bridge.core.model import shown

    settings = given.settings()
    with _ledger(settings) as ledger:
        mapping, quarantined = _numbered(settings, ledger, number)
    facts = _facts(mapping, quarantined)
    if given.as_json:
        emit(facts | {"raw": as_json(quarantined.raw)})
        return
    out = console()
    for name in ("number", "mapping", "direction", "where", "reason", "noted", "bytes", "retried"):
        if facts[name] is not None:
            out.print(safe(f"{name:10} {facts[name]}"))
    if len(quarantined.raw) < quarantined.length:
        digest = quarantined.digest or "not kept"
        out.print(safe(f"{'kept':10} its first {len(quarantined.raw):,} bytes; BLAKE2b-128 of all {digest}"))
    out.print()
    out.print(safe(shown(quarantined.raw, SHOWN_CHARACTERS)), soft_wrap=True)


@command.command("retry")
@click.argument("numbers", nargs=-1, type=NUMBER, metavar="[NUMBER]...")
@click.option("--records", is_flag=True, help="Take whole JSON records out of lines that hold several, or a torn one")
@verb
@each_group(changes=lambda given: True, alone="numbers")
def retry(given: Options, numbers: tuple[int, ...], records: bool) -> int:
    """Try them all, or those of these numbers, once more with the mapping as it is now.

    Each goes over exactly once, however often this is run or killed, and is marked as late: it stands behind its
    neighbours. The bridge must not run meanwhile. Exits 3 when some still cannot be translated. With --records a line
    of JSON that is no message is searched for whole ones: each goes over, what is left of the line stays.
    """
    import time

    from bridge.admin.repair.retry import QuarantineRetry
    from bridge.core.state_directory import state_lock
    from bridge.kinds.mapping_context import MappingContext
    from bridge.ledger.quarantine import quarantine_counts, quarantined
    from bridge.ledger.ranges import intents_of
    from bridge.streams.dial import dialler

    settings = given.settings()
    given.log(settings.log_format)
    path = settings.state_dir / "ledger.db"
    results: list[dict[str, Any]] = []
    with state_lock(settings.state_dir, "quarantine retry"), _ledger(settings, create=path.exists()) as ledger:
        wanted: dict[str, list[QuarantinedMessage]] = {mapping.name: [] for mapping in settings.mappings}
        for number in numbers:
            mapping, quarantined_message = _numbered(settings, ledger, number)
            if quarantined_message.retried:
                results.append({"number": number, "where": quarantined_message.retried, "reason": None, "before": True})
            else:
                wanted[mapping.name].append(quarantined_message)
        for mapping in settings.mappings:
            if not numbers:
                wanted[mapping.name] += quarantined(ledger, mapping.stream.key)
            if wanted[mapping.name] or intents_of(ledger, mapping.stream.key):
                shared = MappingContext(mapping, settings)
                try:
                    dial = dialler(settings, mapping.stream.key)
                    work = QuarantineRetry(shared, ledger, dial, time.time, time.sleep)
                    for done in work.run(wanted[mapping.name], records=records):
                        where, reason = done.where or None, done.reason or None
                        results.append({"number": done.number, "where": where, "reason": reason, "before": False})
                finally:
                    shared.close()
        left = sum(
            n for configured in settings.mappings for _, _, n in quarantine_counts(ledger, configured.stream.key)
        )
    if given.as_json:
        emit(results)
    else:
        _render(results, left)
    return 3 if any(result["reason"] for result in results) else 0


def _render(results: list[dict[str, Any]], left: int) -> None:
    from bridge.cli.screen import console, safe
    from bridge.ledger.quarantine import TAKEN_APART

    out = console()
    for result in results:
        said = f"stays: {result['reason']}" if result["reason"] else f"now {result['where']}"
        out.print(safe(f"{result['number']}: {'went over before, ' * result['before']}{said}"), soft_wrap=True)
    went = sum(not row["reason"] and not row["before"] and row["where"] != TAKEN_APART for row in results)
    click.echo(f"{counted(went, 'message')} went over, {left} in quarantine" if results else "nothing is in quarantine")


@command.command("acknowledge")
@click.argument("numbers", nargs=-1, type=NUMBER, metavar="[NUMBER]...")
@click.option("--all", "everything", is_flag=True, help="Every one that is there now")
@click.option("--reason", default="", help="For the journal")
@verb
@each_group(changes=lambda given: True, alone="numbers")
def acknowledge(given: Options, numbers: tuple[int, ...], everything: bool, reason: str) -> None:
    """Say that you know of these: they stay where they are, and no longer close the gate of a cut-over."""
    import time

    from bridge.cli.common import who
    from bridge.ledger.journal import note
    from bridge.ledger.quarantine import acknowledge as known

    if bool(numbers) == everything:
        raise click.UsageError("give the numbers, or --all")
    settings, total = given.settings(), 0
    with _ledger(settings) as ledger:
        for number in numbers:
            _numbered(settings, ledger, number)
        for mapping in settings.mappings:
            stream, now = mapping.stream.key, time.time()
            count = known(ledger, stream, None if everything else numbers, who(), now)
            if count:
                facts = {"count": count, "numbers": [*numbers] or None, "reason": reason or None}
                note(ledger, now, who(), "quarantine acknowledge", stream, facts)
            total += count
    if given.as_json:
        emit({"acknowledged": total})
    else:
        click.echo(f"{counted(total, 'message')} acknowledged" if total else "nothing that was not acknowledged before")


@command.command("export")
@click.argument("mappings", nargs=-1, metavar="[MAPPING]...", shell_complete=mapping_names)
@click.option("--all", "everything", is_flag=True, help="What a retry has brought over as well")
@verb
def export(given: Options, mappings: tuple[str, ...], everything: bool) -> None:
    """All of it on stdout, one JSON object a line, with every byte that was kept."""
    every = (found for part, names in shares(given, mappings) for found in _found(part, names, everything, whole=True))
    for mapping, quarantined in every:
        emit_line(_facts(mapping, quarantined) | {"raw": as_json(quarantined.raw)})


def _ledger(settings: Settings, *, create: bool = False) -> Any:
    from contextlib import closing

    from bridge.ledger.store import Ledger

    return closing(Ledger(settings.state_dir / "ledger.db", create=create))


def _found(
    part: Options, mappings: tuple[str, ...], everything: bool, *, whole: bool = False
) -> Iterator[tuple[Mapping, QuarantinedMessage]]:
    from bridge.ledger.quarantine import quarantined

    part.must_have(mappings)
    settings = part.settings()
    chosen = settings.chosen(mappings)
    if not (settings.state_dir / "ledger.db").exists():
        return
    with _ledger(settings) as ledger:
        for mapping in chosen:
            for quarantined_message in quarantined(ledger, mapping.stream.key, everything=everything, whole=whole):
                yield mapping, quarantined_message


def _numbered(settings: Settings, ledger: Ledger, number: int) -> tuple[Mapping, QuarantinedMessage]:
    from bridge.core.errors import BridgeError
    from bridge.ledger.quarantine import quarantined_number

    found = quarantined_number(ledger, number)
    for mapping in settings.mappings:
        if found is not None and mapping.stream.key == found[0]:
            return mapping, found[1]
    raise BridgeError(
        f"no message of number {number} is in quarantine", hint="`bridge quarantine list` has the numbers"
    )


def _where(quarantined: QuarantinedMessage) -> str:
    if quarantined.direction == "mirror":
        return f"entry {quarantined.entry_id}"
    return f"{quarantined.name}@{quarantined.offset}" + (
        f" of generation {quarantined.generation}" if quarantined.generation > 1 else ""
    )


def _facts(mapping: Mapping, quarantined: QuarantinedMessage) -> dict[str, Any]:
    from datetime import UTC, datetime

    noted = datetime.fromtimestamp(quarantined.noted_at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {
        "number": quarantined.number,
        "mapping": mapping.name,
        "stream": mapping.stream.key,
        "direction": quarantined.direction,
        "where": _where(quarantined),
        "file": quarantined.name or None,
        "generation": quarantined.generation or None,
        "offset": quarantined.offset if quarantined.direction != "mirror" else None,
        "entry": quarantined.entry_id or None,
        "reason": quarantined.reason,
        "noted": noted,
        "bytes": quarantined.length,
        "digest": quarantined.digest or None,
        "retried": quarantined.retried or None,
    }
