"""Source discovery: finds a mapping's sources for forward, and looks at the sources whose files changed."""

from __future__ import annotations

from collections.abc import Callable

from bridge.core.errors import BridgeError, LedgerError, SourceError, as_bridge_error
from bridge.core.logger import logger
from bridge.engine.account.accountant import Accountant
from bridge.engine.scheduler import Scheduler
from bridge.files.named_file import NamedFile
from bridge.kinds.kind import Source
from bridge.kinds.log.copies import Copies
from bridge.kinds.mapping_context import MappingContext
from bridge.kinds.source_registry import source_of
from bridge.ledger.artifact_mentions import naming_lines
from bridge.ledger.dual_writes import dual_write_signature
from bridge.ledger.sources import sources_of
from bridge.ledger.store import Ledger
from bridge.ledger.troubles import Troubles
from bridge.streams.connect import Connection


class SourceDiscovery:
    """Discovers the sources of one mapping, into `sources`, and gives the scheduler each source that was looked at."""

    def __init__(
        self, shared: MappingContext, ledger: Ledger, troubles: Troubles, clock: Callable[[], float],
        sources: dict[str, Source], scheduler: Scheduler, dial: Callable[[], Connection],
    ) -> None:  # fmt: skip
        self._shared = shared
        self._ledger = ledger
        self._troubles = troubles
        self._clock = clock
        self._worker = f"forward {shared.mapping.name}"
        self._stream = shared.mapping.stream.key
        self._sources = sources
        self._scheduler = scheduler
        self._dial = dial
        self._listed = self._swept = self._rebuilt = self._looked_once = False
        self._restless, self._due = set[str](), set[str]()
        self._changed: list[NamedFile] = []
        self.asleep: dict[str, int] = {}
        """Resting sources, carried whole when the bridge began and not looked at since, each with its bytes on disk."""
        self.looked: set[str] = set()
        """The names of the sources that were looked at; forward clears them as it puts the sources in their place."""
        self._before: set[str] = set()
        self._switches: tuple[str, bool] | None = None
        tails = shared.folder is None and shared.values is None
        self._accountant = Accountant(shared, ledger, clock) if tails else None
        logs = tails and shared.catalog.many and shared.mapping.kind.lines
        self._copies = Copies(shared, ledger, clock) if logs else None
        self.unlisted: BridgeError | None = None
        """Why the last listing of the mapping's files failed; None: it did not."""

    def look(self, paths: set[str] | None = None) -> None:
        """Discovers new sources, and looks at the sources whose files at `paths` changed.

        At None discovery sweeps: each file is looked at, but a source only if one of its own files changed.
        """
        names = self._to_look_at(paths)
        self._due |= names
        self._look_at(self._due, paths)
        self._looked_once = True
        if self._accountant is not None and paths is None:
            try:
                for name in sorted((names | self._before) & self._sources.keys()):
                    for path, start, end in self._sources[name].files.skipped():
                        self._accountant.skipped(name, path, start, end)
                self._before = names
                self._accountant.sweep(self._changed)
                self._changed = []
            except LedgerError as error:
                self._troubles.note(self._ledger, self._worker, error)

    def _look_at(self, names: set[str], paths: set[str] | None) -> None:
        for name in self._in_turn(names & self._sources.keys()):
            source = self._sources[name]
            try:
                if (
                    self._copies is not None
                    and source.files.is_new
                    and self._copies.waits_or_is_copy(name, patient=self._looked_once)
                ):
                    self._restless.add(name)
                    self._due.discard(name)
                    continue
                is_new = source.files.is_new
                if not source.files.look(paths):
                    self._due.discard(name)
                    continue
                if self._copies is not None and is_new and not source.files.is_new:
                    self._copies.tell_edited(name)
                if self._copies is not None:
                    self._copies.begun(name)
                self.say(source)
                self.looked.add(name)
                source.trouble = source.files.unreadable
                if source.trouble is not None:
                    self._troubles.note(self._ledger, f"{self._worker}: {source.name}", source.trouble)
                restless = source.files.restless
            except (SourceError, LedgerError, OSError) as error:
                self.fails(source, as_bridge_error(error))
                restless = True
            (self._restless.add if restless else self._restless.discard)(name)
            self._scheduler.add(source)
            self._due.discard(name)

    def _in_turn(self, names: set[str]) -> list[str]:
        """Sorts sources for discovery: sources that were carried before come first, then new ones, the largest first.

        So a file into which a log was copied is that log's, and of two new files that begin alike the shorter is a
        copy.
        """
        if self._copies is None:
            return sorted(names)
        named = self._shared.catalog.named

        def key(name: str) -> tuple[bool, int, str]:
            listed, is_new = named.get(name), self._sources[name].files.is_new
            return is_new, -listed.facts[2] if is_new and listed is not None and listed.facts is not None else 0, name

        return sorted(names, key=key)

    def _to_look_at(self, paths: set[str] | None) -> set[str]:
        """Discovers which sources must be looked at; returns their names. A sweep finds each change only once."""
        catalog = self._shared.catalog
        if self._accountant is None:
            self._find_sources()
            return set(self._sources)
        names, rest, everybody = set[str](), None, False
        try:
            self._shared.claim_all(self._ledger)
            if paths is not None:
                if not all(catalog.holds(path) for path in paths):
                    catalog.refresh()
                names = {log for path in paths if (log := catalog.log_at(path)) is not None}
            else:  # the ledger first, as it may fail
                self._shared.leave(self._ledger)
                switches = dual_write_signature(self._ledger, self._stream)
                if not self._swept:
                    rest = self._accountant.books(sources_of(self._ledger, self._stream))
                    naming = {*naming_lines(self._ledger, self._stream)}
                changed, names = catalog.sweep()
                self._shared.log_notices()
                self._changed += changed
                everybody = switches[1] or switches != (self._switches or switches)
                self._switches = switches
                if everybody and self.asleep:  # a switch waits until every source has noted its position
                    self.asleep, self._listed = {}, False
                elif rest is not None and not self._rebuilt and not everybody:
                    self.asleep = {name: size for name, size in rest().items() if name not in naming}
                    names -= self.asleep.keys()
                self._swept = True
            self._due |= names
            if self._listed:
                self._make({name for name in self._due if name in self.asleep or catalog.has(name)})
        except SourceError:  # `_find_sources` meets the error again, and notes it
            self._listed = False
        if not self._listed:
            names |= self._find_sources()
        if paths is None:
            everybody = everybody or self.unlisted is not None
            failed = {name for name, source in self._sources.items() if source.trouble is not None}
            names |= set(self._sources) if everybody else failed | self._restless
        return names

    def begin_anew(self) -> None:
        """Makes discovery look at every source in the next sweep, as the ledger was rebuilt since."""
        self._listed = self._swept = False
        self._rebuilt = True
        self._restless.clear()
        self.asleep.clear()

    def woken(self, name: str) -> Source | None:
        """Returns a source by name, after discovery has looked at a source that was resting; None: no such source."""
        if name in self.asleep:
            self._make({name})
            self._look_at({name}, None)
        return self._sources.get(name)

    def wake_all(self) -> None:
        """Looks at every resting source, which discovery had left out as the ledger says that it is carried whole."""
        names = {*self.asleep}
        self._make(names)
        self._look_at(names, None)

    def fails(self, source: Source, error: BridgeError) -> None:
        """Notes the error by which discovery could not look at a source, or forward could not put it in its place."""
        source.trouble = error
        self._troubles.note(self._ledger, f"{self._worker}: {source.name}", error)

    def _find_sources(self) -> set[str]:
        """Discovers the mapping's new sources and makes their objects, except resting ones; returns the new names."""
        self._listed = False
        worker = f"{self._worker}: {self._shared.mapping.source.path}"
        try:
            names = self._shared.source_names(sources_of(self._ledger, self._stream))
        except (SourceError, LedgerError, OSError) as error:  # the known sources go on
            self.unlisted = as_bridge_error(error)
            self._troubles.note(self._ledger, worker, self.unlisted)
            return set()
        if self.unlisted is not None:
            self.unlisted = None
            self._troubles.clear(self._ledger, worker)
        new = {*names} - self._sources.keys() - self.asleep.keys()
        self._make(new)
        self._listed = True
        return new

    def _make(self, names: set[str]) -> None:
        """Makes a `Source` of each discovered name that has none yet. Raises LedgerError: then none is made."""
        new = sorted(names - self._sources.keys())
        made = {name: source_of(self._shared, name, self._ledger, self._clock, self._dial) for name in new}
        self._sources |= made
        for name in new:
            self.asleep.pop(name, None)

    def say(self, source: Source) -> None:
        """Has a source save in the ledger what the look at its files found, and logs its notices as warnings."""
        for notice in source.files.take_news():
            logger.warning("%s", notice, extra={"facts": {"source": source.name}})
