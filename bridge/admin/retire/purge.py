"""Purges a retired mapping: removes the bridge's keys and the components' marks, and lists all that is left behind."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from bridge.admin.retire.end_mapping import folder_of, is_retired, settle
from bridge.core.config import Settings
from bridge.core.errors import BridgeError
from bridge.core.failpoints import failpoint
from bridge.core.mapping import Mapping
from bridge.core.model import paired, shown
from bridge.engine.retired_files import files_of
from bridge.files.outboxes import outboxes, waiting
from bridge.kinds.mapping_context import MappingContext, catalog_of_all
from bridge.ledger.journal import note, noted
from bridge.ledger.retired import retired
from bridge.ledger.store import Ledger
from bridge.streams.component_groups import announced_positions
from bridge.streams.components import FIRST_COMPONENTS, ComponentHash
from bridge.streams.connect import Connection
from bridge.streams.keys import Keys
from bridge.streams.layout import permanent
from bridge.streams.reader import groups_of


@dataclass(slots=True)
class Leftovers:
    """Lists what a retired mapping leaves behind: files, folders and keys that a purge or a person may remove, or not.

    `goes`: what may go; `stays`: what must stay; each with the reason.
    """

    goes: list[tuple[str, str]] = field(default_factory=list)
    stays: list[tuple[str, str]] = field(default_factory=list)


def leftovers_of(settings: Settings, mapping: Mapping, ledger: Ledger, connection: Connection) -> Leftovers:
    """Finds the files, folders and keys that a retired mapping leaves behind, and why each may go or must stay.

    Raises SourceError, LedgerError, RedisLost, RedisRefused.
    """
    found, state, keys = Leftovers(), settings.home, Keys.of(mapping.stream.key)
    kept = folder_of(settings, mapping.name)
    over = retired(ledger)
    others = [other for other in settings.mappings if other.name != mapping.name and other.stream.key not in over]
    taken = {path for other in (*others, *settings.neighbours) for path in _files(settings, other)}
    for path in sorted(_files(settings, mapping)):
        if path in taken:
            found.stays.append((str(path), "another mapping reads it"))
        else:
            found.goes.append((str(path), f"its messages are in the stream and in {kept}"))
    if (archive := settings.state_dir / "archive" / mapping.name).exists():
        found.goes.append((str(archive), f"what it holds is in {kept} as well; only `bridge snapshot` reads it there"))
    names = _keys(settings, mapping, ledger, connection)
    if names:
        said = f"`bridge purge {mapping.name} --execute` removes these {len(names)}, and the marks of its components"
        found.goes.append((f"bridge:{{{mapping.stream.key}}}:*", said))
    groups = [shown(row.name) for row in groups_of(connection, keys.stream)]
    readers = f"; groups {', '.join(groups)} read it" if groups else ""
    found.stays.append((mapping.stream.key, f"the messages{readers}; nobody trims it any more"))
    found.stays.append((keys.retired.decode(), "keeps programs that are started again from falling back to the files"))
    if mapping.kind.latest:
        found.stays.append((f"bridge:{{{mapping.stream.key}}}:state:*", "the latest values: programs read them there"))
    found.stays.append((str(kept), "the stream as files, up to the day it was retired"))
    found.stays.append((str(ledger.path), "tells what others write to the files; `bridge repair` needs it"))
    if owing := _owing(settings, mapping, ledger, connection):
        said = f"the numbers of {len(owing)} sessions that run, or have messages to send: so that none is there twice"
        found.stays.append((shown(keys.producers), said))
    for name, count in waiting(settings.home, mapping.name).items():
        said = f"{count} message{'s' * (count != 1)} of {name} wait there to be sent: start it again"
        found.stays.append((str(state / "components" / name), said))
    for path in sorted(state.glob(f"components/*/{mapping.name}.aside")):
        found.stays.append((str(path), "messages that were set aside, as their readers died of them"))
    if settings.redis_url == "embedded":
        found.stays.append((str(state / "server"), "the embedded server holds the stream; `bridge move` moves it"))
    said = "as long as a program opens it with open_log, or somebody may write to its files"
    found.stays.append((f"{mapping.name} in {settings.path}", said))
    return found


def _files(settings: Settings, mapping: Mapping) -> set[Path]:
    if mapping.many_streams:  # one of another group
        catalog = catalog_of_all(mapping, settings)
        catalog.refresh()
        return {listed.path for listed in catalog.named.values() if not listed.aside}
    shared = MappingContext(mapping, settings)
    try:
        return files_of(shared)
    finally:
        shared.close()


def _keys(settings: Settings, mapping: Mapping, ledger: Ledger, connection: Connection) -> list[tuple[bytes, bytes]]:
    """Lists the bridge's keys in Redis that a purge of a retired mapping removes, each with a field or an empty one.

    With a field only that field of a hash is removed.
    """
    own = Keys.of(mapping.stream.key)
    found = [(key, b"") for key in own.own if key != own.producers and connection.call("EXISTS", key)]
    if connection.call("EXISTS", permanent(own, settings.instance)):
        found.append((permanent(own, settings.instance), b""))
    owing = _owing(settings, mapping, ledger, connection)
    sessions = paired(connection.call("HGETALL", own.producers))
    found += [(own.producers, name) for name in sessions if name.decode(errors="replace") not in owing]
    if connection.in_cluster:
        return found
    # These go first: a program that asks meanwhile would take its modes over from there again.
    names = ComponentHash.of(mapping, settings).first_fields(connection)
    return [*((FIRST_COMPONENTS, name) for name in names), *found]


def _owing(settings: Settings, mapping: Mapping, ledger: Ledger, connection: Connection) -> set[str]:
    """Finds the sessions whose last number a purge must leave in Redis, because they may send a message again.

    As `component:session`: those of components that run, or may run, and those whose outbox holds messages.
    """
    keys = Keys.of(mapping.stream.key)
    locks = settings.home.glob("components/*/worker-*.lock")
    run = {path.parent.name for path in locks if not _free(path)}
    run |= {worker[0] for worker in _elsewhere(mapping, ledger, connection)}
    sessions = [name.decode(errors="replace") for name in paired(connection.call("HGETALL", keys.producers))]
    boxes = [path for path in outboxes(settings.home, mapping.name) if path.stat().st_size]
    owing = {f"{path.parent.name}:{path.name.split('.')[-2]}" for path in boxes}
    return {name for name in sessions if name.split(":")[0] in run or name in owing}


def _elsewhere(mapping: Mapping, ledger: Ledger, connection: Connection) -> list[tuple[str, str, int]]:
    """Finds the workers of a retired mapping that may still run, by their heartbeats: component, host, process.

    A worker that ends takes its heartbeat back. Of workers on this machine only those whose process exists. A purge
    removes the heartbeats, so the journal notes them for the next purge.
    """
    here, found = socket.gethostname(), set[tuple[str, str, int]]()
    for name, said in announced_positions(connection, Keys.of(mapping.stream.key)).items():
        component, slash, _ = name.partition("/")
        if slash:
            pid = said.get("pid")
            found.add((component, str(said.get("host", "")), pid if isinstance(pid, int) else 0))
    for facts in noted(ledger, "purge", mapping.stream.key):
        found |= {(str(name), str(host), int(pid)) for name, host, pid in facts.get("elsewhere", ())}
    return sorted(worker for worker in found if worker[1] != here or lives(worker[2]))


def lives(pid: int) -> bool:
    """Whether a component's worker, given by process number, runs on this machine, so that a purge spares it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return pid > 0


def purge(
    settings: Settings, mapping: Mapping, ledger: Ledger, connection: Connection, who: str, *, really: bool
) -> list[str]:
    """Purges a retired mapping: removes the bridge's keys and the marks of its components, and returns their names.

    Not `really`: only returns the names. Messages in outboxes, and those set aside, stay.
    Raises BridgeError: the mapping is not retired; OSError, RedisLost, RedisRefused.
    """
    if not is_retired(mapping, ledger):
        hint = f"bridge retire {mapping.name}"
        raise BridgeError("is not retired, its keys are in use", where=mapping.name, hint=hint)
    if really:
        settle(settings, mapping, ledger, connection)
    found, marks = _keys(settings, mapping, ledger, connection), _marks(settings, mapping)
    told = [f"{shown(key)} {shown(name)}".rstrip() for key, name in found] + [str(path) for path in marks]
    if not (really and told):
        return told
    facts = {"keys": told, "elsewhere": _elsewhere(mapping, ledger, connection)}
    note(ledger, time.time(), who, "purge", mapping.stream.key, facts)  # before the heartbeats are removed
    failpoint("purge.keys.before")
    for key, name in found:
        connection.call("HDEL", key, name) if name else connection.call("DEL", key)
    failpoint("purge.keys.after")
    failpoint("purge.marks.before")
    for path in marks:
        _remove(path)
    failpoint("purge.marks.after")
    return told


def _marks(settings: Settings, mapping: Mapping) -> list[Path]:
    """Lists the files of a retired mapping's components that a purge removes: bookmarks, locks, and empty outboxes.

    Lists the whole folder of a component that has no other mapping and does not run.
    """
    found = []
    for folder in sorted((settings.home / "components").glob("*")):
        mine = [path for suffix in ("bookmark", "lock", "new") for path in folder.glob(f"{mapping.name}.{suffix}")]
        mine += [path for path in folder.glob(f"{mapping.name}.*.outbox") if not path.stat().st_size and _free(path)]
        others = [path for path in folder.iterdir() if path not in mine]
        if mine and all(path.match("worker-*.lock") and _free(path) for path in others) and all(map(_free, mine)):
            found.append(folder)
        else:
            found += [path for path in mine if path.suffix in (".bookmark", ".new") or _free(path)]
    return found


def _remove(path: Path) -> None:
    """Removes a component's mark for a purge, or its folder with the locks of workers that nobody holds.

    A component that starts meanwhile keeps its locks and its folder.
    """
    if not path.is_dir():
        if path.suffix != ".outbox" or (path.exists() and not path.stat().st_size):
            path.unlink(missing_ok=True)
        return
    for lock in path.iterdir():
        with lock.open("rb") as file, suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock.unlink(missing_ok=True)
    with suppress(OSError):
        path.rmdir()


def _free(path: Path) -> bool:
    """Whether no process holds the lock of a file that a purge may remove."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True
