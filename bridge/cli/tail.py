"""The command `bridge tail`: prints a stream as lines of its mapping, and follows it."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from heapq import merge
from typing import TYPE_CHECKING

import click

from bridge.cli.common import Options, emit_line, mapping_names, verb
from bridge.cli.each_group import each_group

if TYPE_CHECKING:
    from bridge.core.codecs import Codec
    from bridge.core.config import Settings
    from bridge.core.mapping import Mapping
    from bridge.core.model import EntryId
    from bridge.streams.follow import EntryFilter
    from bridge.streams.reader import Entry

LINES = 10
_AGO = re.compile(r"([0-9]{1,12}(?:\.[0-9]+)?)\s*(s|m|min|h|d|w)")
_ID = re.compile(r"[0-9]{1,19}-[0-9]{1,19}")
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}


@click.command("tail", short_help="Print a stream as lines")
@click.argument("mapping", required=False, shell_complete=mapping_names)
@click.option(
    "-n", "count", type=click.IntRange(min=0), metavar="N", help=f"How many [{LINES}; all of them with --since]"
)
@click.option("-f", "--follow", "follows", is_flag=True, help="Go on with what comes, until interrupted")
@click.option("--since", metavar="WHEN", help="From a time (2026-03-02T09:14), an age (10m, 2h, 3d) or an entry ID on")
@click.option("--until", metavar="WHEN", help="Before a time, an age or an entry ID")
@click.option("--role", "roles", multiple=True, metavar="ROLE", help="Only of this role; may be given again")
@click.option("--type", "types", multiple=True, metavar="TYPE", help="Only of this type; may be given again")
@verb
@each_group("mapping", single=True)
def command(
    options: Options, mapping: str | None, count: int | None, follows: bool, since: str | None, until: str | None,
    roles: tuple[str, ...], types: tuple[str, ...],
) -> None:  # fmt: skip
    """Print a stream as lines of its mapping, as `tail` prints a log. Times are those of the entry IDs.

    Several streams of one mapping are merged by time, each line with the name of its stream before it.
    """
    import time

    from bridge.core.errors import ConfigError
    from bridge.streams.dial import dialler
    from bridge.streams.follow import EntryFilter, follow, follow_all
    from bridge.streams.keys import Keys

    settings = options.settings()
    chosen = settings.chosen([mapping] if mapping else [])
    families = list(dict.fromkeys(configured.family for configured in chosen))
    if len(families) > 1:
        raise ConfigError(
            "there are several mappings", where=str(settings.path), hint=f"name one of {', '.join(families)}"
        )
    if not chosen:
        raise ConfigError("there is no stream yet", where=str(settings.path), hint="a stream comes with each log")
    now = time.time()
    wanted = EntryFilter(
        moment(since, now, "--since"), moment(until, now, "--until"),
        frozenset(role.encode() for role in roles), frozenset(kind.encode() for kind in types),
    )  # fmt: skip
    if count is None and since is None:
        count = LINES
    ends = [_newest(settings, configured, wanted, count) for configured in chosen]
    codecs = {configured.name: _codec(configured) for configured in chosen}
    rows = merge(*([(entry.id, configured.name, entry) for entry in found]
                   for configured, (found, _) in zip(chosen, ends, strict=True)))  # fmt: skip
    for _, name, entry in list(rows)[-count if count else None :] if count != 0 else ():
        _print(entry, codecs[name], name if len(chosen) > 1 else "", as_json=options.as_json)
    if not follows:
        return
    if len(chosen) == 1:
        dial, keys = dialler(settings, chosen[0].stream.key, may_start=False), Keys.of(chosen[0].stream.key)
        for entry in follow(dial, keys, ends[0][1], wanted, time.sleep, _say):
            _print(entry, codecs[chosen[0].name], "", as_json=options.as_json)
        return
    cursors = {configured.stream.key.encode(): end for configured, (_, end) in zip(chosen, ends, strict=True)}
    names = {configured.stream.key.encode(): configured.name for configured in chosen}
    for stream, entry in follow_all(settings, cursors, wanted, time.sleep, _say):
        _print(entry, codecs[names[stream]], names[stream], as_json=options.as_json)


def _codec(mapping: Mapping) -> Codec | None:
    inverse = mapping.codec(mapping.mirror.path if mapping.mirror else mapping.source.path)
    return None if named(mapping) or not inverse.invertible else inverse


def _newest(
    settings: Settings, mapping: Mapping, wanted: EntryFilter, count: int | None
) -> tuple[list[Entry], EntryId]:
    """Reads the last entries of a mapping's stream, also from the archive, and the ID behind which new ones come."""
    from bridge.core.model import ZERO_ID
    from bridge.streams.dial import dialler
    from bridge.streams.follow import newest
    from bridge.streams.keys import Keys
    from bridge.streams.trim import read_trimmed

    keys = Keys.of(mapping.stream.key)
    with closing(dialler(settings, mapping.stream.key, may_start=False)()) as connection:
        floor, before = read_trimmed(connection, keys).floor, None
        while floor != before:  # somebody may trim meanwhile
            before, standing = floor, replace(wanted, since=max(wanted.since or ZERO_ID, floor))
            found, cursor = newest(connection, keys.stream, standing, count)
            floor = read_trimmed(connection, keys).floor
    if floor > (wanted.since or ZERO_ID) and (count is None or len(found) < count):
        left = None if count is None else count - len(found)
        found = [*_archived(settings, mapping, floor, wanted, left), *found]
    return found, cursor


def _archived(
    settings: Settings, mapping: Mapping, floor: EntryId, wanted: EntryFilter, count: int | None
) -> list[Entry]:
    """Reads from the archive, for `bridge tail`, the entries that were trimmed from the stream before `floor`."""
    from bridge.continuity.archive_reader import ArchiveReader
    from bridge.ledger.store import Ledger

    path = settings.state_dir / "ledger.db"
    if not path.exists():
        return []
    with closing(Ledger(path)) as ledger:
        return ArchiveReader(mapping, settings.state_dir, ledger).newest(floor, wanted, count)


def _say(text: str) -> None:
    click.echo(f"bridge: {text}", err=True)


def named(mapping: Mapping) -> bool:
    """Whether a mapping takes a field from the file's name, so that `bridge tail` cannot print it by the line alone."""
    message = mapping.message
    return any(
        section is not None and section.name
        for section in (message.role, message.type, message.timestamp, message.data)
    )


def _print(entry: Entry, codec: Codec | None, name: str, *, as_json: bool) -> None:
    """Prints an entry; `name` is that of its stream among several, else empty."""
    from bridge.core.model import FIELDS, format_id, shown
    from bridge.core.model import as_json as of_bytes

    pairs = list(zip(entry.fields[0::2], entry.fields[1::2], strict=True))
    if as_json:
        facts: dict[str, object] = {"id": format_id(entry.id).decode(), **({"mapping": name} if name else {})}
        facts |= {name.decode(errors="backslashreplace"): of_bytes(value) for name, value in pairs}
        emit_line(facts)
        return
    values = dict(pairs)
    missing = [name for name in (codec.fields if codec else FIELDS) if name not in values]
    line: bytes | str = ""
    if not missing and codec is not None:
        line = codec.encode(tuple(values[name] for name in codec.fields))
    elif not missing:  # the mapping's line would not tell all, or cannot be made
        line = b"|".join(values[name] for name in FIELDS)
    if isinstance(line, str):  # no line can be made of the entry: prints its fields
        line = b"(entry %b is no line) " % format_id(entry.id) + b" ".join(b"%b=%b" % pair for pair in pairs)
    click.echo(f"{name.partition(':')[2]}: {shown(line, None)}" if name else shown(line, None))


def moment(text: str | None, now: float, option: str) -> EntryId | None:
    """Parses an option such as `bridge tail --since` as the lowest entry ID: an ID, an age (`10m`) or an ISO 8601 time.

    A time that names no zone is this machine's. `now` in seconds since 1970. Raises click.UsageError.
    """
    from bridge.core.model import parse_id

    if text is None:
        return None
    if _ID.fullmatch(text):
        return parse_id(text.encode())
    ago = _AGO.fullmatch(text)
    if ago:
        return max(0, int((now - float(ago[1]) * _SECONDS[ago[2]]) * 1000)), 0
    try:
        seconds = datetime.fromisoformat(text).astimezone(UTC).timestamp()
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{text!r} is neither a time (2026-03-02T09:14), nor an age (10m, 2h, 3d), nor an entry ID",
            param_hint=option,
        ) from None
    return max(0, int(seconds * 1000)), 0
