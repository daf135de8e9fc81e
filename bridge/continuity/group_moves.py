"""Moves a mapping from the ledger of one group to that of another, where bridge.toml was changed so, exactly.

The ledger that knows a mapping's streams, and is no copy, is the one that counts. So each step may be the last: the
rows are copied, and marked as a copy; Redis is told the new owner; the first ledger forgets; the mark goes. Both
groups stand still meanwhile, by their locks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

from bridge.core.config import Settings
from bridge.core.errors import BridgeError, LedgerError
from bridge.core.failpoints import failpoint
from bridge.core.groups import GROUPS
from bridge.core.logger import logger
from bridge.core.mapping import Mapping
from bridge.core.state_directory import state_lock
from bridge.ledger.journal import note
from bridge.ledger.process_nonces import nonces
from bridge.ledger.sources import stream_memory
from bridge.ledger.staleness_mark import read_mark
from bridge.ledger.store import Ledger
from bridge.ledger.stream_names import fixed_names
from bridge.ledger.stream_rows import copy_rows, forget_rows, has_moved, known_streams, moving_from
from bridge.streams.dial import Connections
from bridge.streams.keys import Keys
from bridge.streams.layout import hand_over


def other_ledgers(settings: Settings) -> Iterator[tuple[str, Path]]:
    """Yields the groups that have a ledger, other than the one of these settings, and the paths of their ledgers.

    Also of groups that bridge.toml names no more; the empty name is that of the mappings in no group.
    """
    folders = [("", settings.home), *((path.name, path) for path in sorted((settings.home / GROUPS).glob("*")))]
    for group, folder in folders:
        path = folder / "ledger.db"
        if folder != settings.state_dir and path.exists():
            yield group, path


def called(group: str) -> str:
    """Names a group for people: `group 'a'`, or the mappings in no group."""
    return f"group '{group}'" if group else "the bridge without groups"


def waiting_moves(settings: Settings) -> dict[str, str]:
    """Finds the mappings of a group that another group's ledger still knows: who has each, in words, by its name.

    The next start of the group brings them over. What a ledger that cannot be read knows is not told.
    """
    found: dict[str, str] = {}
    for group, path in other_ledgers(settings):
        try:
            with closing(Ledger(path)) as ledger:
                known = known_streams(ledger)
                for mapping in settings.mappings:
                    if _streams(ledger, mapping, known):
                        found[mapping.name] = called(group)
        except LedgerError:
            continue
    return found


def bring_over(settings: Settings, who: str) -> list[str]:
    """Brings over to a group's ledger what other groups' ledgers know of its mappings; says in words what was moved.

    `settings` are those of the group as bridge.toml has them, with mappings of many streams. Where there is nothing to
    move, no lock is taken. A ledger of others that cannot be read is left out, unless it may be the one that counts.
    Raises LockHeld: this group or the other one runs; LedgerError, RedisLost, RedisRefused; BridgeError: the other
    ledger is a copy or an older one.
    """
    said: list[str] = []
    copies = _copies(settings)
    for group, path in other_ledgers(settings):
        try:
            origin = Ledger(path)
        except LedgerError as error:
            if copies:  # it may be the one that counts
                raise
            logger.warning("%s: what it knows is not brought over", error)
            continue
        with closing(origin):
            known = known_streams(origin)
            mine = [mapping for mapping in settings.mappings if _streams(origin, mapping, known)]
            if not mine:
                continue
            with ExitStack() as held:
                held.enter_context(state_lock(settings.state_dir, "bring-over"))
                held.enter_context(state_lock(path.parent, "bring-over"))
                to = held.enter_context(closing(Ledger(settings.state_dir / "ledger.db", create=True)))
                servers = held.enter_context(closing(Connections(settings, may_start=True)))
                for mapping in mine:
                    if streams := _streams(origin, mapping, known_streams(origin)):  # another may have been faster
                        _Move(settings, mapping, streams, origin, to).make(servers, who, group)
                        said.append(f"{mapping.name}: brought over from {called(group)}")
    if copies:  # a move was killed that lacked no more than this: nobody else knows them
        with closing(Ledger(settings.state_dir / "ledger.db", create=True)) as ledger:
            for key in copies:
                has_moved(ledger, key)
    return said


def _copies(settings: Settings) -> list[str]:
    """Lists the mappings, by `stream.key`, of which a group's ledger has a copy that counts for nothing yet."""
    path = settings.state_dir / "ledger.db"
    if not path.exists():
        return []
    with closing(Ledger(path, create=True)) as ledger:
        return [mapping.stream.key for mapping in settings.mappings if moving_from(ledger, mapping.stream.key)]


def _streams(ledger: Ledger, mapping: Mapping, known: set[str]) -> list[str]:
    """Lists the streams of a mapping that a ledger knows, or has a copy of; it knows the streams `known`."""
    key = mapping.stream.key
    if mapping.many_streams:
        return [mapping.of_log(log, name).stream.key for log, name in fixed_names(ledger, key).items()]
    return [key] if key in known else []


class _Move:
    """The move of one mapping from one group's ledger to another's; both groups' locks are held."""

    def __init__(self, settings: Settings, mapping: Mapping, streams: list[str], origin: Ledger, to: Ledger) -> None:
        self._settings, self._mapping, self._streams = settings, mapping, streams
        self._origin, self._to = origin, to

    def make(self, servers: Connections, who: str, group: str) -> None:
        """Makes the move, or goes on with one that was killed. Raises as `bring_over`."""
        key = self._mapping.stream.key
        if self._counts():
            if not moving_from(self._origin, key):
                raise BridgeError(
                    f"two ledgers know {self._mapping.name}: this one and that of {called(group)}",
                    where=str(self._to.path),
                    hint=f"which one carried it last? Move the other aside: it may be {self._origin.path}",
                )
            self._hand_over(servers, self._origin, self._to)  # a copy that was made the other way, and never used
            forget_rows(self._origin, self._streams, key)
            return
        self._check()
        failpoint("group.copy.before")
        copy_rows(self._origin, self._to, self._streams, key)
        failpoint("group.copy.after")
        for folder in ("archive", "retired"):
            self._move_folders(folder)
        failpoint("group.owner.before")
        self._hand_over(servers, self._origin, self._to)
        failpoint("group.owner.after")
        facts = {"from": group, "to": self._settings.group, "streams": len(self._streams)}
        note(self._to, time.time(), who, "move to group", key, facts)
        failpoint("group.forget.before")
        forget_rows(self._origin, self._streams, key)
        failpoint("group.forget.after")
        has_moved(self._to, key)

    def _hand_over(self, servers: Connections, ledger: Ledger, to: Ledger) -> None:
        for stream in self._streams:
            hand_over(servers.to(stream), Keys.of(stream), ledger.uuid, to.uuid)

    def _counts(self) -> bool:
        """Whether the ledger to which the mapping moves knows its streams, and has no copy of them either."""
        known = known_streams(self._to)
        return bool(_streams(self._to, self._mapping, known)) and not moving_from(self._to, self._mapping.stream.key)

    def _check(self) -> None:
        """Raises BridgeError where the ledger from which the mapping moves is a copy, or one from a backup."""
        for stream in self._streams:
            places = [*nonces(self._origin, stream).values()]
            memory = stream_memory(self._origin, stream)
            older = memory is not None and memory.commits < read_mark(self._origin.path, self._origin.uuid, stream)
            if older or (places and places[-1] not in ("", self._origin.place)):
                raise BridgeError(
                    f"this ledger is a copy, or was put back, so {self._mapping.name} cannot be brought over from it",
                    where=str(self._origin.path),
                    hint="let its own group carry the mapping once, by bridge.toml as it was; or move this ledger"
                    " aside, and `bridge repair` aligns stream and files anew",
                )

    def _move_folders(self, kind: str) -> None:
        """Moves the folders of the mapping's archive, or of what retiring it left, to the other group's folder."""
        name = self._mapping.name
        names = (name, f"{name}:*") if self._mapping.many_streams else (name,)
        hidden = [f".{name}.kept" for name in names] if kind == "retired" else []
        home = self._origin.path.parent / kind
        for folder in sorted({path for pattern in (*names, *hidden) for path in home.glob(pattern)}):
            place = self._to.path.parent / kind
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            if (place / folder.name).exists():
                raise BridgeError("is there already", where=str(place / folder.name),
                                  hint=f"{folder} is to be moved there: move the other one aside")  # fmt: skip
            folder.rename(place / folder.name)
