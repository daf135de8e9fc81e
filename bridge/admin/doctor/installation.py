"""The doctor's checks of our own side: which `bridge` it is, whether one runs, ledger, mappings, components, and the
last comparison."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path

from bridge.admin.doctor.finding import Finding, Judgement, Verdict, worst
from bridge.core.config import Settings
from bridge.core.errors import LedgerError
from bridge.core.model import Checkpoint, EntryId, Origin, Position, format_id, paired, parse_origin
from bridge.core.state_folder import lock_holder
from bridge.core.wording import counted, duration, size
from bridge.files.generation import GenerationRecord
from bridge.ledger.heartbeat import SILENT_AFTER, heartbeat
from bridge.ledger.parity_runs import ParityRun, runs
from bridge.ledger.retired import retired
from bridge.ledger.sources import all_generations
from bridge.ledger.store import Ledger
from bridge.streams.components import ComponentModes, all_modes, announced_positions
from bridge.streams.connect import CLIENT_NAME, Connection, Refusal, refused
from bridge.streams.keys import Keys
from bridge.streams.reader import Entry, groups_of, to_entries
from bridge.streams.resp import pack
from bridge.streams.trim import groups_hold, read_trimmed

COMPONENT_SILENT_AFTER = 600.0
"""Seconds without a word after which a component that was switched is called silent."""

OLD = 86_400.0
"""Seconds after which a comparison is old, and a consumer group far behind."""

ORIGINS_LOOKED_AT = 1000
"""How many of the newest entries of each stream have their origins looked at."""


def program(found: str | None, ours: Sequence[str]) -> Finding:
    """Checks whether the `bridge` on the path is this installation's. Pure.

    `found`: what `bridge` on the path is; `ours`: the folders of this installation's programs.
    """
    if found is None:
        return Finding("program", "note", "no `bridge` is on the path", f"add {ours[0]} to PATH" if ours else "")
    if str(Path(found).parent) not in ours:
        said = f"`bridge` on the path is {found}, another program (iproute2 has one of that name)"
        return Finding("program", "note", said, "say hestai-bridge, or put this one's folder first in PATH")
    return Finding("program", "good", f"`bridge` on the path is this one, {found}")


def _folders() -> list[str]:
    """Lists the folders in which this installation keeps its programs."""
    return list(dict.fromkeys(str(Path(name).parent) for name in (sys.executable, sys.argv[0])))


def process(holder: str, beat: Mapping[str, object] | None, now: float, *, needed: bool = True) -> Finding:
    """Checks whether a process is at work, by who has the lock and the last heartbeat. Pure.

    `now` in seconds since 1970. `needed`: whether any mapping is to be carried still.
    """
    if not holder and not needed:
        return Finding("process", "good", "no bridge runs, and none need: every mapping is retired")
    if not holder:
        return Finding("process", "note", "no bridge runs", "bridge run --dual, or `bridge service install --dual`")
    if not holder.startswith("bridge run"):
        return Finding("process", "good", f"{holder} is at work")
    at = beat.get("at") if beat else None
    if not isinstance(at, float | int) or now - at > SILENT_AFTER:
        since = f" for {duration(now - at)}" if isinstance(at, float | int) else " yet"
        said = f"{holder} is there, but gave no heartbeat{since}"
        return Finding("process", "bad", said, "is it stopped, or starved? See its log")
    troubles = beat.get("troubles") if beat else None
    if isinstance(troubles, dict) and troubles:
        name, error = next(iter(troubles.items()))
        return Finding("process", "bad", f"{holder}: {name}: {error}", "`bridge status` tells more")
    return Finding("process", "good", f"{holder} is at work")


def ledger(path: Path) -> Finding:
    """Checks, for the doctor, whether the bridge's ledger is sound, and tells how large it is."""
    if not path.exists():
        return Finding("ledger", "note", "there is none yet", "`bridge run` makes one; a lost one: `bridge repair`")
    try:
        with closing(Ledger(path)) as own_ledger:
            said = own_ledger.rows("PRAGMA quick_check(1)")[0][0]
    except LedgerError as error:
        return Finding("ledger", "bad", str(error), error.hint)
    if said != "ok":
        return Finding("ledger", "bad", f"{path} is damaged: {said}", "move it aside, and `bridge repair`")
    whole = sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
    return Finding("ledger", "good", f"sound, {size(whole)}")


def rewrites(found: Mapping[str, int]) -> Finding:
    """Tells how often each log was changed in place, as far as the ledger knows. Pure."""
    if found:
        named = ", ".join(f"{name} {counted(many, 'time')}" for name, many in sorted(found.items())[:3])
        said = f"changed in place, not appended to: {named}. It was emptied, or a program wrote over lines in it"
        hint = "let programs open logs to append, and rotate by renaming; `bridge parity` tells what it cost"
        return Finding("rewrites", "note", said, hint)
    return Finding("rewrites", "good", "no log was ever changed in place while it was carried")


def _rewritten(ledger: Ledger, settings: Settings) -> dict[str, int]:
    """Counts for each log the generations that were written over or emptied.

    Such a generation ended, and was neither renamed nor copied. One that was changed while no bridge ran never ended:
    its file is that of the next one.
    """
    found = {}
    for mapping in settings.mappings:
        all_known = all_generations(ledger, mapping.stream.key) if mapping.kind.lines else []
        for name, some in groupby(all_known, key=itemgetter(0)):
            known = [generation for _, generation in some]
            many = sum(record.closed and record.inode < 0 for record in known)
            many += sum(_same_file(before, after) for before, after in pairwise(known))
            if many:
                found[name] = many
    return found


def _same_file(before: GenerationRecord, after: GenerationRecord) -> bool:
    """Whether one generation followed another in the same file, which was changed in place while no bridge ran."""
    if (before.device, before.inode) != (after.device, after.inode):
        return False
    return not before.closed or bool(before.born and before.born == after.born)


def mappings(files: Mapping[str, Sequence[Path]]) -> Finding:
    """Checks for files that several mappings read: each would carry them into its own stream. Pure."""
    readers: dict[Path, list[str]] = {}
    for name, paths in files.items():
        for path in paths:
            readers.setdefault(path, []).append(name)
    shared = {path: names for path, names in readers.items() if len(names) > 1}
    if shared:
        path, names = min(shared.items())
        said = f"{path} is read by {' and '.join(names)}"
        more = f", and so are {counted(len(shared) - 1, 'other file')}" if len(shared) > 1 else ""
        return Finding("mappings", "note", said + more, "its messages are in both streams: is that meant?")
    return Finding("mappings", "good", f"{counted(len(files), 'mapping')}, no file in two of them")


def components(
    modes: Mapping[tuple[str, str], ComponentModes], heard: Mapping[tuple[str, str], float], declared: frozenset[str],
    mine: frozenset[str],
) -> Finding:  # fmt: skip
    """Checks for components that were switched and are not in bridge.toml, or have been silent for long.

    `heard`: seconds since the last word of each component in each mapping. Pure.
    """
    parts: list[Judgement] = []
    for (name, mapping), mode in sorted(modes.items()):
        if mapping not in mine:
            continue
        if name not in declared:
            said = f"{name} was switched in {mapping}, and bridge.toml does not know it"
            parts.append(("note", said, f"add [components.{name}] with its roles"))
        age = heard.get((name, mapping))
        if "redis" in (mode.reads, mode.writes) and age is not None and age > COMPONENT_SILENT_AFTER:
            parts.append(("note", f"{name} in {mapping}: no word for {duration(age)}", "does it still run?"))
    known = {name for name, mapping in modes if mapping in mine} | declared
    return worst("components", parts or [("good", f"{counted(len(known), 'component')}, all known", "")])


def look_at_components(connection: Connection, settings: Settings) -> Finding:
    """Checks the components of this bridge's mappings, by the modes and positions that Redis holds of them."""
    seconds, _ = connection.call("TIME")
    heard: dict[tuple[str, str], float] = {}
    for mapping in settings.mappings:
        for name, said in announced_positions(connection, Keys.of(mapping.stream.key)).items():
            at, key = said.get("at"), (name.partition("/")[0], mapping.name)
            if isinstance(at, int):
                heard[key] = min(heard.get(key, 1e12), max(0.0, int(seconds) - at / 1000))
    names = frozenset(configured.name for configured in settings.mappings)
    return components(all_modes(connection), heard, frozenset(settings.components), names)


@dataclass(frozen=True, slots=True)
class Foreign:
    """Entries of a stream that name an origin and are not the bridge's: how many of the newest, and the first ID."""

    count: int
    first: EntryId


def origins(found: Mapping[str, Foreign], writers: Sequence[str]) -> Finding:
    """Checks whether producers other than the bridge name origins, which only the bridge may. Pure.

    `writers`: clients that added entries just now.
    """
    parts: list[Judgement] = []
    for stream, foreign in found.items():
        who = f"; who adds entries now: {', '.join(writers[:3])}" if writers else ""
        many = "1 entry names" if foreign.count == 1 else f"{foreign.count} entries name"
        said = f"{stream}: {many} an origin that the bridge did not send, from {format_id(foreign.first).decode()} on"
        hint = "a producer leaves `origin` out: such an entry gets no line in a file, and its line no entry"
        parts.append(("bad", said + who, hint))
    return worst("origins", parts or [("good", "only the bridge's own entries name one", "")])


def look_at_origins(connection: Connection, settings: Settings) -> Finding:
    """Checks the newest entries of this bridge's streams for origins that the bridge did not send.

    Such an origin is beyond the bridge's checkpoint, there twice, or of a source that has no number.
    """
    found: dict[str, Foreign] = {}
    for mapping in settings.mappings:
        keys = Keys.of(mapping.stream.key)
        if connection.call("EXISTS", keys.retired):
            continue  # what it knew them by was purged, or may be
        replies = connection.calls(
            pack("MULTI"), pack("HGETALL", keys.checkpoint), pack("HGETALL", keys.sources),
            pack("XREVRANGE", keys.stream, "+", "-", "COUNT", ORIGINS_LOOKED_AT), pack("EXEC"),
        )  # fmt: skip
        for reply in replies[-1]:
            if isinstance(reply, Refusal):
                raise refused(reply, mapping.stream.key)
        checkpoint, sources, rows = replies[-1]
        foreign = _foreign(paired(checkpoint), paired(sources), to_entries(rows))
        if foreign is not None:
            found[mapping.stream.key] = foreign
    writers: list[str] = []
    if found:
        for row in connection.call("CLIENT", "LIST").decode(errors="replace").splitlines():
            facts = dict(part.split("=", 1) for part in row.split(" ") if "=" in part)
            if facts.get("cmd") in ("xadd", "exec", "eval") and facts.get("name") != CLIENT_NAME:
                writers.append(f"{facts.get('name') or 'no name'} at {facts.get('addr', '?')}")
    return origins(found, writers)


def _foreign(
    checkpoint: Mapping[bytes, bytes], sources: Mapping[bytes, bytes], newest: Sequence[Entry]
) -> Foreign | None:
    ends = {int(number): Checkpoint.from_json(checkpoint[name]).position
            for name, number in sources.items() if name in checkpoint}  # fmt: skip
    numbers, seen, found = {int(number) for number in sources.values()}, set[Origin](), list[EntryId]()
    for entry in reversed(newest):
        raw = entry.origin()
        origin = parse_origin(raw) if raw is not None else None
        if origin is None:
            continue
        end = ends.get(origin.source)
        beyond = end is not None and Position(origin.generation, origin.offset) >= end
        if origin.source not in numbers or beyond or origin in seen:
            found.append(entry.id)
        seen.add(origin)
    return Foreign(len(found), found[0]) if found else None


def groups(behind: Mapping[str, Sequence[tuple[str, float, int]]]) -> Finding:
    """Checks, for the doctor, whether any consumer group of this bridge's streams is far behind. Pure.

    `behind`: of each stream the groups that still need entries, as name, seconds since the first of these, consumers.
    """
    parts: list[Judgement] = []
    for stream, some in behind.items():
        for name, age, consumers in some:
            if age > OLD:
                who = "nobody reads with it" if not consumers else counted(consumers, "consumer")
                said = f"group {name} of {stream} is {duration(age)} behind ({who})"
                parts.append(("note", said, f"not used any more? XGROUP DESTROY {stream} {name}: it holds up trimming"))
    return worst("groups", parts or [("good", "none is far behind", "")])


def look_at_groups(connection: Connection, settings: Settings) -> Finding:
    """Checks for consumer groups of this bridge's streams that are far behind."""
    seconds, _ = connection.call("TIME")
    behind = {}
    for mapping in settings.mappings:
        keys = Keys.of(mapping.stream.key)
        held = groups_hold(connection, keys, read_trimmed(connection, keys).floor)
        if held:
            rows = groups_of(connection, keys.stream)
            many = {row.name.decode(errors="replace"): row.consumers for row in rows}
            behind[mapping.stream.key] = [
                (group.group, int(seconds) - group.first[0] / 1000, many.get(group.group, 0)) for group in held
            ]
    return groups(behind)


def parity(last: Mapping[str, ParityRun | None], now: float) -> Finding:
    """Checks the verdict and the age of the last comparison of each mapping. Pure."""
    parts: list[Judgement] = []
    for name, run in last.items():
        hint = f"bridge parity {name}"
        if run is None:
            parts.append(("note", f"{name} was never compared", hint))
            continue
        age = now - run.ended
        verdict: Verdict = (
            "bad" if run.verdict == "differs" else "note" if run.verdict != "equal" or age > OLD else "good"
        )
        parts.append((verdict, f"{name}: {run.verdict}, {duration(age)} ago", hint if verdict != "good" else ""))
    if all(hint for _, _, hint in parts):
        parts = [(verdict, said, "bridge parity") for verdict, said, _ in parts]
    return worst("parity", parts)


def examine(settings: Settings, files: Mapping[str, Sequence[Path]]) -> list[Finding]:
    """Runs all of the doctor's checks of our own side that need no server; `files`: those that each mapping reads."""
    path, now = settings.state_dir / "ledger.db", time.time()
    sound = ledger(path)
    beat, last, rewritten, needed = None, dict[str, ParityRun | None](), dict[str, int](), True
    if path.exists() and sound.verdict == "good":
        with closing(Ledger(path)) as own_ledger:
            beat, over, rewritten = (
                heartbeat(own_ledger, settings.instance),
                retired(own_ledger),
                _rewritten(own_ledger, settings),
            )
            needed = any(mapping.stream.key not in over for mapping in settings.mappings)
            for mapping in settings.mappings:
                if mapping.stream.key not in over:
                    last[mapping.name] = next(iter(runs(own_ledger, mapping.stream.key, 1)), None)
    return [
        program(shutil.which("bridge", path=os.environ.get("PATH")), _folders()),
        process(lock_holder(settings.state_dir), beat, now, needed=needed),
        sound,
        rewrites(rewritten),
        mappings(files),
        *([parity(last, now)] if last else []),
    ]
