"""The doctor's checks of the bridge's own installation and state, on disk and in Redis.

Checked are: which program `bridge` on the PATH is, whether a bridge runs, the ledger, logs that were changed in place,
mappings, components, origins, consumer groups, and the last comparison by parity.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path

from bridge.admin.doctor.finding import Finding, Judgement, Verdict, worst
from bridge.core.config import Settings
from bridge.core.errors import LedgerError
from bridge.core.groups import run_command
from bridge.core.model import Checkpoint, EntryId, Origin, Position, format_id, paired, parse_origin
from bridge.core.state_directory import lock_holder
from bridge.core.wording import counted, duration, size
from bridge.files.generation_record import GenerationRecord
from bridge.ledger.heartbeat import SILENT_AFTER, heartbeat
from bridge.ledger.parity_runs import ParityRun, runs
from bridge.ledger.retired import retired
from bridge.ledger.sources import all_generations
from bridge.ledger.store import Ledger
from bridge.streams.component_groups import ALIVE_MS, announced_positions
from bridge.streams.components import ComponentHash, ComponentModes
from bridge.streams.connect import CLIENT_NAME, Refusal, refused
from bridge.streams.dial import Connections
from bridge.streams.keys import Keys
from bridge.streams.layout import FORMAT
from bridge.streams.reader import Entry, groups_of, to_entries
from bridge.streams.resp import pack
from bridge.streams.trim import groups_hold, read_trimmed

COMPONENT_SILENT_AFTER = 600.0
"""Seconds without a heartbeat after which the doctor calls a switched component silent."""

OLD = 86_400.0
"""Seconds after which the doctor calls a comparison old, and a consumer group's lag long."""

ORIGINS_LOOKED_AT = 1000
"""How many of the newest entries of each stream the doctor checks for foreign origins."""


def program(found: str | None, ours: Sequence[str]) -> Finding:
    """Checks for the doctor whether the program `bridge` on the PATH belongs to this installation. Pure.

    `found`: the path of the `bridge` that PATH leads to; `ours`: the folders of this installation's programs.
    """
    if found is None:
        return Finding("program", "note", "no `bridge` is on the path", f"add {ours[0]} to PATH" if ours else "")
    if str(Path(found).parent) not in ours:
        said = f"`bridge` on the path is {found}, another program (iproute2 has one of that name)"
        return Finding("program", "note", said, "say hestai-bridge, or put this one's folder first in PATH")
    return Finding("program", "good", f"`bridge` on the path is this one, {found}")


def _folders() -> list[str]:
    """Lists the folders in which this installation of the bridge keeps its programs."""
    return list(dict.fromkeys(str(Path(name).parent) for name in (sys.executable, sys.argv[0])))


def process(
    holder: str, beat: Mapping[str, object] | None, now: float, *, needed: bool = True, group: str = ""
) -> Finding:
    """Checks for the doctor whether a bridge process is at work, by the state lock and the last heartbeat. Pure.

    `holder`: who has the lock; `now` in seconds since 1970. `needed`: whether any mapping is not retired yet;
    `group`: the group whose process it is, empty where it is of none.
    """
    if not holder and not needed:
        return Finding("process", "good", "no bridge runs, and none need: every mapping is retired")
    if not holder:
        return Finding("process", "note", "no bridge runs", f"{run_command(group)}, or `bridge service install --dual`")
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
    """Checks for the doctor whether the bridge's ledger passes SQLite's `quick_check`, and says how large it is.

    `path` is the ledger's file.
    """
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
    """Makes the doctor's finding about logs that were changed in place, from the counts that the ledger gives. Pure."""
    if found:
        named = ", ".join(f"{name} {counted(many, 'time')}" for name, many in sorted(found.items())[:3])
        said = f"changed in place, not appended to: {named}. It was emptied, or a program wrote over lines in it"
        hint = "let programs open logs to append, and rotate by renaming; `bridge parity` tells what it cost"
        return Finding("rewrites", "note", said, hint)
    return Finding("rewrites", "good", "no log was ever changed in place while it was carried")


def _rewritten(ledger: Ledger, settings: Settings) -> dict[str, int]:
    """Counts for the doctor, from the ledger, the generations of each log that were overwritten or emptied in place.

    Such a generation ended, but its file was neither renamed nor copied. A generation whose file was changed while no
    bridge ran never ended: the next generation has the same file.
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
    """Whether one generation of a log followed another in the same file, changed in place while no bridge ran."""
    if (before.device, before.inode) != (after.device, after.inode):
        return False
    return not before.closed or bool(before.born and before.born == after.born)


def mappings(files: Mapping[str, Sequence[Path]]) -> Finding:
    """Checks for the doctor whether several mappings read one file: each would carry it into its own stream. Pure."""
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
    earlier: Collection[tuple[str, str]],
) -> Finding:  # fmt: skip
    """Makes the doctor's finding about switched components that bridge.toml does not declare, or that are silent.

    `heard`: seconds since the last announced position of each component in each mapping. `earlier`: those that run with
    the client of an earlier version, which knows the components' first hash alone. Pure.
    """
    parts: list[Judgement] = []
    for name, mapping in sorted(earlier):
        said = f"{name} in {mapping}: a client of an earlier version, which works with one server alone"
        parts.append(("note", said, "start it again with this version before you go to a cluster"))
    for (name, mapping), mode in sorted(modes.items()):
        if name not in declared:
            said = f"{name} was switched in {mapping}, and bridge.toml does not know it"
            parts.append(("note", said, f"add [components.{name}] with its roles"))
        age = heard.get((name, mapping))
        if "redis" in (mode.reads, mode.writes) and age is not None and age > COMPONENT_SILENT_AFTER:
            parts.append(("note", f"{name} in {mapping}: no word for {duration(age)}", "does it still run?"))
    known = {name for name, _ in modes} | declared
    return worst("components", parts or [("good", f"{counted(len(known), 'component')}, all known", "")])


def look_at_components(servers: Connections, settings: Settings) -> Finding:
    """Checks for the doctor the components of this bridge's mappings, by their modes and positions in Redis."""
    heard, modes = dict[tuple[str, str], float](), dict[tuple[str, str], ComponentModes]()
    earlier: set[tuple[str, str]] = set()
    for mapping in settings.mappings:
        connection, hashes = servers.to(mapping.stream.key), ComponentHash.of(mapping, settings)
        seconds, _ = connection.call("TIME")
        modes |= {(name, mapping.name): now for name, now in hashes.all(connection).items()}
        for name, said in announced_positions(connection, hashes.keys).items():
            at, key = said.get("at"), (name.partition("/")[0], mapping.name)
            if isinstance(at, int):
                age = max(0.0, int(seconds) - at / 1000)
                heard[key] = min(heard.get(key, 1e12), age)
                if age * 1000 < ALIVE_MS and said.get("layout") != FORMAT:
                    earlier.add(key)
    return components(modes, heard, frozenset(settings.components), earlier)


@dataclass(frozen=True, slots=True)
class Foreign:
    """Counts for the doctor the newest entries of a stream whose origin the bridge did not send; keeps the first ID."""

    count: int
    first: EntryId


def origins(found: Mapping[str, Foreign], writers: Sequence[str]) -> Finding:
    """Makes the doctor's finding about producers other than the bridge that write the field `origin`. Pure.

    `found`: the foreign entries of each stream that has any; `writers`: clients that added entries just now.
    """
    parts: list[Judgement] = []
    for stream, foreign in found.items():
        who = f"; who adds entries now: {', '.join(writers[:3])}" if writers else ""
        many = "1 entry names" if foreign.count == 1 else f"{foreign.count} entries name"
        said = f"{stream}: {many} an origin that the bridge did not send, from {format_id(foreign.first).decode()} on"
        hint = "a producer leaves `origin` out: such an entry gets no line in a file, and its line no entry"
        parts.append(("bad", said + who, hint))
    return worst("origins", parts or [("good", "only the bridge's own entries name one", "")])


def look_at_origins(servers: Connections, settings: Settings) -> Finding:
    """Checks for the doctor the newest entries of this bridge's streams for origins that the bridge did not send.

    Such an origin lies beyond the checkpoint, occurs twice, or names a source that has no number.
    """
    found: dict[str, Foreign] = {}
    for mapping in settings.mappings:
        keys, connection = Keys.of(mapping.stream.key), servers.to(mapping.stream.key)
        if connection.call("EXISTS", keys.retired):
            continue  # the checkpoint that tells the bridge's own origins may be purged
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
    for connection in {servers.to(stream) for stream in found}:
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
    """Makes the doctor's finding about consumer groups whose lag is longer than a day. Pure.

    `behind`: for each stream the groups that still need entries, as name, age in seconds of the first such entry, and
    number of consumers.
    """
    parts: list[Judgement] = []
    for stream, some in behind.items():
        for name, age, consumers in some:
            if age > OLD:
                who = "nobody reads with it" if not consumers else counted(consumers, "consumer")
                said = f"group {name} of {stream} is {duration(age)} behind ({who})"
                parts.append(("note", said, f"not used any more? XGROUP DESTROY {stream} {name}: it holds up trimming"))
    return worst("groups", parts or [("good", "none is far behind", "")])


def look_at_groups(servers: Connections, settings: Settings) -> Finding:
    """Checks for the doctor how far each consumer group of this bridge's streams is behind, as read from Redis."""
    behind = {}
    for mapping in settings.mappings:
        keys, connection = Keys.of(mapping.stream.key), servers.to(mapping.stream.key)
        seconds, _ = connection.call("TIME")
        held = groups_hold(connection, keys, read_trimmed(connection, keys).floor)
        if held:
            rows = groups_of(connection, keys.stream)
            many = {row.name.decode(errors="replace"): row.consumers for row in rows}
            behind[mapping.stream.key] = [
                (group.group, int(seconds) - group.first[0] / 1000, many.get(group.group, 0)) for group in held
            ]
    return groups(behind)


def parity(last: Mapping[str, ParityRun | None], now: float) -> Finding:
    """Checks for the doctor the verdict and the age of the last parity run of each mapping. Pure."""
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


def examine(settings: Settings) -> list[Finding]:
    """Runs the doctor's checks of the installation that need no server: program, process, ledger, edits, parity."""
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
        process(lock_holder(settings.state_dir), beat, now, needed=needed, group=settings.group),
        sound,
        rewrites(rewritten),
        *([parity(last, now)] if last else []),
    ]
