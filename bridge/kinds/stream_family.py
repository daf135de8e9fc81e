"""The streams of a mapping with many (`{name}` in `stream.key`): which logs have which, as mappings of one log each.

Names are fixed in the ledger as a log is first carried. Whoever only looks names a log that is not carried yet as the
bridge will.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

from bridge.continuity.renamed_instance import check_instance
from bridge.core.config import Settings
from bridge.core.errors import LedgerError, RedisLost, RedisRefused, SourceError
from bridge.core.logger import logger
from bridge.core.mapping import Mapping
from bridge.core.mapping_sections import NAME
from bridge.core.model import Checkpoint, paired
from bridge.core.stream_names import candidates, log_named, names_of
from bridge.files.birth_time import born
from bridge.files.generation import open_regular
from bridge.files.generation_record import GenerationRecord
from bridge.kinds.mapping_context import catalog_of_all
from bridge.ledger.sources import all_generations
from bridge.ledger.store import Ledger
from bridge.ledger.stream_names import fix_names, fixed_names
from bridge.streams.connect import Connection
from bridge.streams.dial import Connections
from bridge.streams.keys import Keys
from bridge.streams.layout import NO_SOURCE, others_stream
from bridge.streams.resp import pack
from bridge.streams.stream_scan import StreamScan

Carried = Callable[[Sequence[str]], list[set[str]]]
"""Tells of which logs each of several streams has lines, by the streams' keys."""

ASKED_AT_ONCE = 500
"""Streams of which a server is asked in one write."""

LOOKED_AT = 2
"""Names besides the first that a log's stream may have had before the ledger was lost, and is looked for under."""


def carried_logs(servers: Connections) -> Carried:
    """Makes the function that asks Redis of which logs a stream has lines. It raises RedisLost, RedisRefused."""

    def carried(keys: Sequence[str]) -> list[set[str]]:
        by_server: dict[Connection, list[str]] = defaultdict(list)
        found: dict[str, set[str]] = {}
        for key in keys:
            by_server[servers.to(key)].append(key)
        for connection, mine in by_server.items():
            for begin in range(0, len(mine), ASKED_AT_ONCE):
                some = mine[begin : begin + ASKED_AT_ONCE]
                replies = connection.calls(*(pack("HKEYS", Keys.of(key).checkpoint) for key in some))
                for key, fields in zip(some, replies, strict=True):
                    found[key] = {os.fsdecode(field) for field in fields if field != NO_SOURCE}
        return [found[key] for key in keys]

    return carried


class StreamFamily:
    """The streams of one mapping with many: a mapping of one log for each, made when it is asked for."""

    def __init__(self, mapping: Mapping, settings: Settings, ledger: Ledger | None) -> None:
        self.mapping = mapping
        self.catalog = catalog_of_all(mapping, settings)
        self.instance = settings.instance
        self._elsewhere = _taken_by_others(mapping, settings)
        self._names = fixed_names(ledger, mapping.stream.key) if ledger is not None else {}
        self._fixed = {*self._names}
        self._by_name = {name: log for log, name in self._names.items()}
        self._made: dict[str, Mapping] = {}
        if ledger is not None:
            for log in self._names:
                for name, known in all_generations(ledger, self.of(log).stream.key):
                    self.catalog.claim(name, known)

    @property
    def around(self) -> tuple[str, str]:
        """The parts of a stream's key before and behind its name, the same for all streams of the mapping."""
        before, _, behind = self.mapping.stream.key.partition(NAME)
        return before, behind

    @property
    def logs(self) -> list[str]:
        """The logs that have a stream, sorted by their paths below the root."""
        return sorted(self._names)

    def learn(self, ledger: Ledger) -> None:
        """Has a family of streams take over the names that the bridge has fixed in the ledger since it was made."""
        for log, name in fixed_names(ledger, self.mapping.stream.key).items():
            if log not in self._fixed:
                self._fixed.add(log)
                if self._names.get(log) != name:
                    self._by_name.pop(self._names.get(log, ""), None)
                    self._names[log] = name
                    self._made.pop(log, None)
                self._by_name[name] = log
                for known_log, known in all_generations(ledger, self.of(log).stream.key):
                    self.catalog.claim(known_log, known)

    def is_fixed(self, log: str) -> bool:
        """Whether the name of a log's stream is fixed, and not only what the bridge will name it as it seems."""
        return log in self._fixed

    def is_plain(self, log: str) -> bool:
        """Whether the stream of a log has the name that it would have if the mapping had no other log."""
        return names_of(self.mapping.source.path, [log], ()) == {log: self._names[log]}

    def name_of(self, log: str) -> str:
        """Returns the name of a log's stream. Raises KeyError: it has none."""
        return self._names[log]

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, log: str) -> bool:
        return log in self._names

    def of(self, log: str) -> Mapping:
        """Returns the mapping of one log, which has a stream of its own. Raises KeyError: it has none."""
        if log not in self._made:
            self._made[log] = self.mapping.of_log(log, self._names[log])
        return self._made[log]

    def find(self, carried: Carried | None = None) -> list[str]:
        """Finds logs that have no stream yet, names their streams, and returns the logs.

        `carried` tells of which logs a stream of a name has lines already, as Redis knows: that of this very log is
        taken, and none of another one, though the ledger was lost that knew the names. Without it the names are what
        they seem to be. Raises SourceError, and what `carried` raises.
        """
        late = {name for mine in self.catalog.late_of.values() for name in mine.values()}
        new = sorted({*self.catalog.logs()} - self._names.keys() - late)
        named: dict[str, str] = {}
        known, taken = dict[str, set[str]](), set[str]()
        if carried is not None:  # of all at once, as far as they will be asked for, it seems
            keys = [self._key_of(name) for log in new for name in islice(self._candidates(log), LOOKED_AT + 1)]
            known = dict(zip(keys, carried(keys), strict=True))
        for log in new:
            named[log] = self._free(log, carried, known, taken)
            taken.add(named[log])
        self._names |= named
        self._by_name |= {name: log for log, name in named.items()}
        return new

    def _candidates(self, log: str) -> Iterator[str]:
        """Yields the names that a log's stream may have, as far as no other stream has them."""
        names = candidates(self.mapping.source.path, log)
        return (name for name in names if name not in self._by_name and name not in self._elsewhere)

    def _key_of(self, name: str) -> str:
        return self.mapping.stream.of_log(name).key

    def _free(
        self, log: str, carried: Carried | None, known: dict[str, set[str]], others: Collection[str]
    ) -> str:  # fmt: skip
        """Chooses the name of a log's stream, beside `others`; `known`: of which logs some streams have lines."""
        free = (name for name in self._candidates(log) if name not in others)
        if carried is None:
            return next(free)
        first: str | None = None
        for number, name in enumerate(free):
            key = self._key_of(name)
            logs = known[key] if key in known else carried([key])[0]
            if log in logs:
                return name
            first = name if first is None and not logs else first
            if first is not None and number >= LOOKED_AT:
                break
        return first or next(free)

    def log_of(self, key: str) -> str | None:
        """Returns the log of the stream of this key; None: it is no stream of the mapping."""
        before, behind = self.around
        return self._by_name.get(self._name_in(key)) if key.startswith(before) and key.endswith(behind) else None

    def knows(self, key: str) -> bool:
        """Whether a key of Redis is that of a known stream of the mapping."""
        return self._name_in(key) in self._by_name

    def _name_in(self, key: str) -> str:
        before, behind = self.around
        return key.removeprefix(before).removesuffix(behind)

    def take(self, key: str, carried: Collection[str] = ()) -> str | None:
        """Takes up a stream that is in Redis, by its key, and returns its log, to which its messages are mirrored.

        `carried`: the logs of which the stream has lines. None: it has a log already, or it has lines of logs whose
        stream it could not be by its name, or none of the mapping's logs could have such a name.
        """
        glob, name = self.mapping.source.path, self._name_in(key)
        if name in self._by_name or name in self._elsewhere:
            return None
        if carried:
            log = next((log for log in sorted(carried) if name in islice(candidates(glob, log), LOOKED_AT + 1)), "")
        else:
            log = log_named(glob, name)
            log = log if names_of(glob, [log], self._elsewhere) == {log: name} else ""
        if not log or log in self._names or not self.catalog.is_log(log) or ".." in log.split("/"):
            return None
        self._names[log], self._by_name[name] = name, log
        return log

    def recognise(self, log: str, checkpoint: Checkpoint) -> None:
        """Finds a log's file by what of it is in the stream: it may have been renamed, and no ledger knows that.

        `checkpoint` is how far the log is in its stream, as Redis has it. Raises SourceError.
        """
        catalog = self.catalog
        catalog.refresh()
        own = catalog.named.get(log)
        others = (listed for name, listed in sorted(catalog.named.items()) if listed.log == name not in self._names)
        for listed in (*([own] if own is not None else []), *others):
            file = open_regular(listed.path) if checkpoint.at.head_len and not (listed.aside or listed.of) else None
            try:
                if file is not None and file.holds(checkpoint.at):
                    known = GenerationRecord(
                        checkpoint.generation, *listed.identity, checkpoint.at, born=born(str(listed.path))
                    )
                    catalog.claim(log, known)
                    return
            finally:
                if file is not None:
                    file.close()

    @property
    def knows_names(self) -> bool:
        """Whether the ledger has fixed any name of the mapping's streams: where it has none, it may have been lost."""
        return bool(self._fixed)

    @property
    def unfixed(self) -> list[str]:
        """The logs whose streams have a name that is not fixed in the ledger yet."""
        return sorted(self._names.keys() - self._fixed)

    def fix(self, ledger: Ledger, now: float) -> None:
        """Fixes the names of all the mapping's streams in the ledger. `now`: seconds since 1970. Raises LedgerError."""
        names = {log: self._names[log] for log in self.unfixed}
        if names:
            fix_names(ledger, self.mapping.stream.key, names, now)
            self._fixed |= names.keys()


def _taken_by_others(mapping: Mapping, settings: Settings) -> set[str]:
    """Names that no stream of a mapping may have, as another mapping's stream would have the same key."""
    before, _, behind = mapping.stream.key.partition(NAME)
    others = [*settings.mappings, *settings.neighbours]
    keys = [other.stream.key for other in others if not other.many_streams and not other.log]
    return {key.removeprefix(before).removesuffix(behind) for key in keys if key.startswith(before)}


def with_streams(settings: Settings, *, fix_at: float | None = None) -> Settings:
    """Returns the settings with each stream of the mappings with many in the place of these mappings.

    Names are fixed in the ledger, which is made where there is none, if `fix_at` tells since when, in seconds since
    1970: also those of streams that began in Redis, where that is there. Else the ledger is only looked at. Raises
    LedgerError, and with `fix_at` RedisLost, RedisRefused; Unfit: the bridge has another name than before.
    """
    families = {mapping.name: mapping for mapping in settings.mappings if mapping.many_streams}
    if not families:
        return settings
    path, mappings = settings.state_dir / "ledger.db", list[Mapping]()
    settings = replace(settings, families=families, shared={})
    with ExitStack() as opened:
        ledger = _opened(path, create=fix_at is not None)
        if ledger is not None:
            opened.callback(ledger.close)
            if fix_at is not None:
                check_instance(ledger, settings)
        for mapping in settings.mappings:
            if not mapping.many_streams:
                mappings.append(mapping)
                continue
            family = StreamFamily(mapping, settings, ledger)
            with closing(Connections(settings, may_start=fix_at is not None)) as servers:
                _find(family, servers, ledger, must=fix_at is not None)
            if fix_at is not None and ledger is not None:
                family.fix(ledger, fix_at)
            mappings += [family.of(log) for log in family.logs]
    return replace(settings, mappings=tuple(mappings))


def _opened(path: Path, *, create: bool) -> Ledger | None:
    """Opens the ledger to look up names of streams; None: there is none, or it is damaged, which others report."""
    try:
        return Ledger(path, create=create) if create or path.exists() else None
    except LedgerError:
        if create:
            raise
        return None


def _find(family: StreamFamily, servers: Connections, ledger: Ledger | None, *, must: bool) -> None:
    """Names the streams of logs that have none yet; if it `must` not be wrong, raises RedisLost, RedisRefused."""
    try:
        try:
            if must or not family.knows_names:
                StreamsInRedis(family, ledger.uuid if ledger is not None else b"").whole(servers)
            family.find(carried_logs(servers))
        except (RedisLost, RedisRefused):
            if must:
                raise
            family.find()  # as they seem to be
    except SourceError as error:  # whoever carries the logs reports it
        logger.debug("%s: %s", family.mapping.name, error)


class StreamsInRedis:
    """Looks in Redis for streams of a mapping that no name is known of: they began there, or the ledger was lost."""

    def __init__(self, family: StreamFamily, ledger: bytes) -> None:
        self._family, self._ledger = family, ledger
        self._scan = StreamScan(*family.around)
        self.strange: set[str] = set()
        """The keys of streams that have such a name, and are of no log."""

    def some(self, servers: Connections, times: int) -> list[str]:
        """Takes up a mapping's streams among the next keys of Redis; returns their logs. Raises as `whole`."""
        return [log for key in self._scan.some(servers, times) if (log := self._taken(key, servers)) is not None]

    def whole(self, servers: Connections) -> list[str]:
        """Takes up a mapping's streams among all keys; returns logs. Raises RedisLost, RedisRefused, SourceError."""
        return [log for key in self._scan.whole(servers) if (log := self._taken(key, servers)) is not None]

    def begin_anew(self) -> None:
        """Begins the search for a mapping's streams in Redis anew, as the connections are other ones by now."""
        self._scan.begin_anew()

    def _taken(self, key: str, servers: Connections) -> str | None:
        family, keys = self._family, Keys.of(key)
        if family.knows(key) or key in self.strange:
            return None
        meta, checkpoint = (paired(reply) for reply in servers.to(key).calls(
            pack("HGETALL", keys.meta), pack("HGETALL", keys.checkpoint)))  # fmt: skip
        if others_stream(meta, self._ledger, family.instance):
            return None
        sent = {os.fsdecode(name): raw for name, raw in checkpoint.items() if name != NO_SOURCE}
        log = family.take(key, sent)
        if log is None:
            self.strange.add(key)
        elif log in sent:
            family.recognise(log, Checkpoint.from_json(sent[log]))
        return log
