"""Moves a mapping from the ledger of one group to that of another, where bridge.toml was changed so, exactly.

The ledger that knows a mapping's streams, and has no copy of them, is the one that counts. So each step may be the
last: the rows are copied, and marked as a copy; Redis is told the new owner; the first ledger forgets; the mark goes.
All groups that know the mapping stand still meanwhile, by their locks.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from bridge.core.config import Settings
from bridge.core.errors import BridgeError, LedgerError
from bridge.core.failpoints import failpoint
from bridge.core.groups import BRING_OVER, GROUPS, run_command
from bridge.core.mapping import Mapping
from bridge.core.state_directory import state_lock
from bridge.ledger.journal import note
from bridge.ledger.process_nonces import nonces
from bridge.ledger.sources import stream_memory
from bridge.ledger.staleness_mark import read_mark
from bridge.ledger.store import Ledger
from bridge.ledger.stream_names import fixed_names
from bridge.ledger.stream_rows import copy_rows, forget_rows, has_moved, known_streams, moving_from
from bridge.streams import lease
from bridge.streams.dial import Connections
from bridge.streams.keys import Keys
from bridge.streams.layout import hand_over, is_owner
from bridge.streams.lease import LeaseHolder


def other_ledgers(settings: Settings) -> Iterator[tuple[str, Path]]:
    """Yields the groups that have a ledger, other than the one of these settings, and the paths of their ledgers.

    Also of groups that bridge.toml names no more; the empty name is that of the mappings in no group.
    """
    folders = [("", settings.home), *((path.name, path) for path in sorted((settings.home / GROUPS).glob("*")))]
    for group, folder in folders:
        path = folder / "ledger.db"
        if folder != settings.state_dir and path.exists() and path.stat().st_size:
            yield group, path


def called(group: str) -> str:
    """Names a group for people: `group 'a'`, or the mappings in no group."""
    return f"group '{group}'" if group else "the bridge without groups"


@dataclass(frozen=True, slots=True)
class WaitingMove:
    """A mapping of a group that is not brought over yet: who has it, in words, or why nobody can tell (`error`)."""

    origin: str
    error: str = ""

    @property
    def said(self) -> str:
        """Says in words that a mapping waits to be brought over to its group."""
        return self.error or f"not brought over from {self.origin} yet"

    def hint(self, group: str) -> str:
        """Says what brings a waiting mapping over to its `group`; nothing where a ledger must be mended first."""
        return "" if self.error else f"stop both processes; the next `{run_command(group)}` brings it over"


def waiting_moves(settings: Settings) -> dict[str, WaitingMove]:
    """Finds the mappings of a group that another group's ledger still knows, by name: its next start brings them over.

    Of a mapping that the group's own ledger does not know, a ledger of others that cannot be read may know it.
    """
    found: dict[str, WaitingMove] = {}
    for group, path in other_ledgers(settings):
        try:
            with closing(Ledger(path)) as ledger:
                known = known_streams(ledger)
                mine = [mapping for mapping in settings.mappings if _streams(ledger, mapping, known)]
            found |= {mapping.name: WaitingMove(called(group)) for mapping in mine}
        except LedgerError as error:
            unknown = _unknown(settings)
            found |= {mapping.name: WaitingMove(called(group), str(error)) for mapping in unknown}
    return found


def _unknown(settings: Settings) -> list[Mapping]:
    """Lists the mappings of which the group's own ledger knows nothing, or has but a copy that does not count yet."""
    path = settings.state_dir / "ledger.db"
    try:
        with closing(Ledger(path)) as ledger:
            known = known_streams(ledger)
            return [mapping for mapping in settings.mappings if not _counts(ledger, mapping, known)]
    except LedgerError:  # there is none yet, or it is of an earlier version
        return list(settings.mappings)


def bring_over(settings: Settings, who: str) -> list[str]:
    """Brings over to a group's ledger what other groups' ledgers know of its mappings; says in words what was moved.

    `settings` are those of the group as bridge.toml has them, with mappings of many streams. Where there is nothing to
    move, no lock is taken. Raises LockHeld: this group or another one that knows a mapping of its runs; LedgerError:
    also where a ledger cannot be read that may know one; RedisLost, RedisRefused; BridgeError: the other ledger is a
    copy or an older one, or two ledgers know a mapping.
    """
    said: list[str] = []
    others = list(other_ledgers(settings))
    with ExitStack() as opened:
        ledgers: list[tuple[str, Ledger]] = []
        for group, path in others:
            try:
                ledgers.append((group, _opened(path)))
            except LedgerError:
                if _unknown(settings):
                    raise
            else:
                opened.callback(ledgers[-1][1].close)
        knowing = [
            (group, ledger) for group, ledger in ledgers
            for known in [known_streams(ledger)] if any(_streams(ledger, m, known) for m in settings.mappings)
        ]  # fmt: skip
        if not knowing and not _has_copies(settings):
            return []
        opened.enter_context(state_lock(settings.state_dir, BRING_OVER))
        for _, ledger in knowing:
            opened.enter_context(state_lock(ledger.path.parent, BRING_OVER))
        own = opened.enter_context(closing(Ledger(settings.state_dir / "ledger.db", create=True)))
        servers = opened.enter_context(closing(Connections(settings, may_start=True)))
        for mapping in settings.mappings:
            there = [(group, ledger) for group, ledger in knowing if _streams(ledger, mapping, known_streams(ledger))]
            if there or moving_from(own, mapping.stream.key):
                origin = _Move(settings, mapping, own, there, servers).make(who)
                said += [f"{mapping.name}: brought over from {called(origin)}"] if origin is not None else []
    return said


def _opened(path: Path) -> Ledger:
    """Opens another group's ledger; one of an earlier version is brought up to date, if its group stands still."""
    try:
        return Ledger(path)
    except LedgerError:
        with state_lock(path.parent, BRING_OVER):
            return Ledger(path, create=True)


def _has_copies(settings: Settings) -> bool:
    """Whether a group's own ledger has a copy that does not count yet, or may have one, as it cannot be read."""
    path = settings.state_dir / "ledger.db"
    try:
        with closing(Ledger(path)) as ledger:
            return any(moving_from(ledger, mapping.stream.key) for mapping in settings.mappings)
    except LedgerError:
        return path.exists()


def _streams(ledger: Ledger, mapping: Mapping, known: set[str]) -> list[str]:
    """Lists the streams of a mapping that a ledger knows, or has a copy of; it knows the streams `known`."""
    key = mapping.stream.key
    if mapping.many_streams:
        return [mapping.of_log(log, name).stream.key for log, name in fixed_names(ledger, key).items()]
    return [key] if key in known else []


def _counts(ledger: Ledger, mapping: Mapping, known: set[str]) -> bool:
    """Whether a ledger knows the streams of a mapping, and has no mere copy of them."""
    return bool(_streams(ledger, mapping, known)) and not moving_from(ledger, mapping.stream.key)


class _Move:
    """The move of one mapping to a group's own ledger; the locks of all groups that know the mapping are held."""

    def __init__(
        self, settings: Settings, mapping: Mapping, own: Ledger, others: list[tuple[str, Ledger]], servers: Connections
    ) -> None:
        self._settings, self._mapping, self._servers = settings, mapping, servers
        self._own, self._others = own, others

    def make(self, who: str) -> str | None:
        """Moves a mapping to its group, or goes on with a killed move; returns the group it came from, if it came.

        Raises as `bring_over`.
        """
        key = self._mapping.stream.key
        group, origin = self._origin()
        if origin is not self._own:
            streams = _streams(origin, self._mapping, known_streams(origin))
            self._check(origin, streams)
            failpoint("group.copy.before")
            copy_rows(origin, self._own, streams, key)
            failpoint("group.copy.after")
        streams = _streams(self._own, self._mapping, known_streams(self._own))
        for _, ledger in self._others:
            for folder in ("archive", "retired"):
                self._move_folders(ledger, folder)
        failpoint("group.owner.before")
        for _, ledger in self._others:
            self._hand_over(ledger, streams)
        failpoint("group.owner.after")
        if origin is not self._own:
            facts = {"from": group, "to": self._settings.group, "streams": len(streams)}
            note(self._own, time.time(), who, "move to group", key, facts)
        failpoint("group.forget.before")
        for _, ledger in sorted(self._others, key=lambda other: other[1] is origin):  # the one that counts at last
            forget_rows(ledger, _streams(ledger, self._mapping, known_streams(ledger)), key)
        failpoint("group.forget.after")
        has_moved(self._own, key)
        return group if origin is not self._own else None

    def _origin(self) -> tuple[str, Ledger]:
        """Finds the ledger that counts for a moving mapping; of copies alone, that of the owner in Redis, or the own.

        Raises BridgeError: two ledgers count.
        """
        every = [(self._settings.group, self._own), *self._others]
        counts = [(g, ledger) for g, ledger in every if _counts(ledger, self._mapping, known_streams(ledger))]
        if len(counts) > 1:
            (first, ledger), (second, another) = counts[:2]
            raise BridgeError(
                f"two ledgers know {self._mapping.name}: that of {called(first)} and that of {called(second)}",
                where=str(ledger.path),
                hint=f"which one carried it last? Move the other aside: it may be {another.path}",
            )
        if counts:
            return counts[0]
        copies = [other for other in every if _streams(other[1], self._mapping, known_streams(other[1]))]
        stream = _streams(copies[0][1], self._mapping, known_streams(copies[0][1]))[0]
        owner = self._servers.to(stream).call("HGET", Keys.of(stream).meta, "owner")
        return next((copy for copy in copies if is_owner(owner, copy[1].uuid)), copies[0])

    def _check(self, origin: Ledger, streams: list[str]) -> None:
        """Raises BridgeError where the ledger from which the mapping moves is a copy, or one from a backup."""
        for stream in streams:
            places = [*nonces(origin, stream).values()]
            memory = stream_memory(origin, stream)
            older = memory is not None and memory.commits < read_mark(origin.path, origin.uuid, stream)
            if older or (places and places[-1] not in ("", origin.place)):
                raise BridgeError(
                    f"this ledger is a copy, or was put back, so {self._mapping.name} cannot be brought over from it",
                    where=str(origin.path),
                    hint="let its own group carry the mapping once, by bridge.toml as it was; or move this ledger"
                    " aside, and `bridge repair` aligns stream and files anew",
                )

    def _hand_over(self, ledger: Ledger, streams: list[str]) -> None:
        """Tells Redis the new owner of a moving mapping's streams, and ends the lease of a killed process."""
        for stream in streams:
            connection, keys = self._servers.to(stream), Keys.of(stream)
            hand_over(connection, keys, ledger.uuid, self._own.uuid)
            holder = lease.standing(connection, keys).holder
            if holder is not None and holder.same_place(LeaseHolder.of("", ledger.path.parent)):
                connection.call("DEL", keys.lease)

    def _move_folders(self, origin: Ledger, kind: str) -> None:
        """Moves the folders of the mapping's archive, or of what retiring it left, from another group's folder."""
        name = self._mapping.name
        names = (name, f"{name}:*") if self._mapping.many_streams else (name,)
        hidden = [f".{name}.kept" for name in names] if kind == "retired" else []
        home, place = origin.path.parent / kind, self._own.path.parent / kind
        for folder in sorted({path for pattern in (*names, *hidden) for path in home.glob(pattern)}):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            if (place / folder.name).exists():
                raise BridgeError("is there already", where=str(place / folder.name),
                                  hint=f"{folder} is to be moved there: move the other one aside")  # fmt: skip
            try:
                folder.rename(place / folder.name)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                raise BridgeError(f"cannot be moved to {place}, on another file system", where=str(folder),
                                  hint="move it there yourself, and start again") from None  # fmt: skip
