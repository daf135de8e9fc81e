"""Locates a message on the other side (`bridge locate`): the entry of a line, or the line of an entry."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

from bridge.admin.locate_in_mapping import MessageFinder, MessagePlace
from bridge.admin.survey.check_lines import is_regular
from bridge.core.config import Settings
from bridge.core.errors import BridgeError
from bridge.core.model import EntryId, Origin, paired, parse_id, parse_origin, shown
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.store import Ledger
from bridge.streams.dial import Connections
from bridge.streams.reader import Entry, entries, entries_back

_ID = re.compile(r"[0-9]{1,19}-[0-9]{1,19}")
_PLACE = re.compile(r"(.+?)([:@])([0-9]{1,18})", re.DOTALL)


def locate(settings: Settings, ledger: Ledger, servers: Connections, what: str, cwd: Path) -> list[MessagePlace]:
    """Locates a message in all mappings, by `FILE:LINE`, `FILE@OFFSET`, a whole file, an entry ID or an origin.

    Raises BridgeError when the message is nowhere.
    """
    searches, away = _searches(settings, ledger, servers)
    try:
        origin = parse_origin(os.fsencode(what))
        if _ID.fullmatch(what):
            found = [
                _known(search, message_place)
                for search in searches
                if (message_place := search.of_entry(parse_id(what.encode()))) is not None
            ]
            if not found:
                raise _not_all(away, BridgeError(f"no stream holds entry {what}, and the ledger knows no line of it"))
            return found
        if origin is not None:
            return _of_origin(searches, origin)
        for search in searches:
            for whole in (cwd / what, settings.root / what):
                message_place = search.of_whole_file(whole)
                if message_place is not None:
                    return [_known(search, message_place, of_file=True)]
        place = _PLACE.fullmatch(what)
        if place is None:
            forms = (
                "FILE:LINE, FILE@OFFSET, a whole FILE of a folder, an entry ID (1771004967322-0), or an origin (1.2:3)"
            )
            raise BridgeError(f"{what!a} is no place", hint=forms)
        path = next((p for p in (cwd / place[1], settings.root / place[1]) if is_regular(p)), None)
        if path is None:
            raise BridgeError(f"there is no such file, neither here nor in {settings.root}", where=ascii(place[1]))
        for search in searches:
            message_place = search.of_file(path.resolve(), int(place[3]), by_line=place[2] == ":")
            if message_place is not None:
                return [_known(search, message_place, of_file=True)]
        stranger = BridgeError("belongs to no mapping", where=str(path), hint="`bridge status` lists the files")
        raise _not_all(away, stranger)
    finally:
        for search in searches:
            search.shared.close()


def locate_text(settings: Settings, ledger: Ledger, servers: Connections, text: bytes, most: int) -> list[MessagePlace]:
    """Locates the newest messages whose data holds a text, `most` of each stream at most, oldest first.

    Only what stands in a stream is looked at. Raises BridgeError: there is none.
    """

    def holding(search: MessageFinder) -> list[EntryId]:
        found = (
            entry.id for entry in entries_back(search.connection, search.shared.keys.stream) if text in _data(entry)
        )
        return [*islice(found, most)][::-1]

    return _located(settings, ledger, servers, holding, f"no entry of any stream holds {shown(text, 60)}")


def locate_time(settings: Settings, ledger: Ledger, servers: Connections, ms: int) -> list[MessagePlace]:
    """Locates the first message of each stream whose entry is of a time, in ms since 1970, or later.

    An entry's ID tells its time: the message's own for history, the time of sending for what came live. Raises
    BridgeError: there is none.
    """

    def first(search: MessageFinder) -> list[EntryId]:
        return [
            entry.id for entry in islice(entries(search.connection, search.shared.keys.stream, b"%d-0" % ms, page=1), 1)
        ]

    return _located(settings, ledger, servers, first, "no stream has an entry of that time or later")


def _located(
    settings: Settings, ledger: Ledger, servers: Connections, find: Callable[[MessageFinder], list[EntryId]], none: str
) -> list[MessagePlace]:
    searches, away = _searches(settings, ledger, servers)
    try:
        places = [
            _known(search, place)
            for search in searches for entry_id in find(search) if (place := search.of_entry(entry_id)) is not None
        ]  # fmt: skip
    finally:
        for search in searches:
            search.shared.close()
    if not places:
        raise _not_all(away, BridgeError(none, hint="what is not carried yet, or was trimmed, is not looked at"))
    return places


def _data(entry: Entry) -> bytes:
    return paired(entry.fields).get(b"data", b"")


def _searches(
    settings: Settings, ledger: Ledger, servers: Connections
) -> tuple[list[MessageFinder], Mapping[str, BridgeError]]:
    """Makes the finders of all mappings whose servers are there; returns them, and why the others are not."""
    links, away = servers.reach(mapping.stream.key for mapping in settings.mappings)
    return [
        MessageFinder(MappingContext(mapping, settings), ledger, links[mapping.stream.key])
        for mapping in settings.mappings if mapping.stream.key in links
    ], away  # fmt: skip


def _not_all(away: Mapping[str, BridgeError], error: BridgeError) -> BridgeError:
    """Returns the error of a message that is nowhere: or, where not all streams were looked at, why not."""
    return next(iter(away.values()), error)


def _known(search: MessageFinder, place: MessagePlace, *, of_file: bool = False) -> MessagePlace:
    """Returns a message's place as it was located; of a stream that another bridge owns only what was looked for.

    The files here are not those of which such a stream tells.
    """
    if not search.whose:
        return place
    said = f"{search.whose}: the files here have nothing to do with it"
    if of_file:
        return replace(place, said=said, born="", entry=None, origin=None, generation=None)
    return MessagePlace(place.mapping, place.stream, said, "", entry=place.entry, origin=place.origin)


def _of_origin(searches: list[MessageFinder], origin: Origin) -> list[MessagePlace]:
    """Locates an origin in each stream that has an entry of it; else where its line stands. Raises BridgeError."""
    found: list[MessagePlace] = []
    errors = [BridgeError(f"no source has the number {origin.source}")]
    for search in searches:
        try:
            place = search.of_origin(origin)
        except BridgeError as error:
            errors.append(error)
        else:
            found += [_known(search, place)] if place is not None else []
    if not found:
        raise errors[-1]
    return [message_place for message_place in found if message_place.entry is not None] or found
