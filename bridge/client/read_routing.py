"""Read routing: decides from where a component reads, files or Redis, and keeps its bookmark in accord with that."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from bridge.client.bookmark import Bookmark, SourcePosition
from bridge.client.carried_still import FileVoucher
from bridge.client.coordinator import Coordinator
from bridge.client.start import Start
from bridge.core.config import Settings
from bridge.core.errors import BridgeError, NotYet, RedisRefused
from bridge.core.logger import logger
from bridge.core.wording import counted
from bridge.kinds.mapping_context import MappingContext
from bridge.streams.component_groups import announced_position
from bridge.streams.components import REDIS, ComponentModes
from bridge.streams.connect import Connection
from bridge.streams.dial import Backoff
from bridge.streams.reader import stream_info
from bridge.streams.retired import ending_of

WRITTEN = 5.0
"""Seconds to wait for another holder of a bookmark's lock, which only writes a line and gives it back."""


class ReadRouting:
    """Routes a component's reads to files or Redis, as Redis told the coordinator, or as the bookmark remembers."""

    def __init__(
        self, shared: MappingContext, settings: Settings, component: str, bookmark: Bookmark, keeper: Coordinator,
        dial: Callable[[], Connection], vouched: FileVoucher, start: Start,
    ) -> None:  # fmt: skip
        self._shared = shared
        self._settings = settings
        self._component = component
        self._bookmark = bookmark
        self._keeper = keeper
        self._dial = dial
        self._vouched = vouched
        self._start = start
        self._remembered: ComponentModes | None = None
        """The modes in Redis that were written into the bookmark last."""

    def remember(self, known: ComponentModes) -> None:
        """Writes into a component's bookmark the sides that Redis says it reads and writes.

        A worker that reads the files does so itself. A component that only writes needs the note too: it may be started
        again while Redis is away.
        """
        if known.switch is not None or known == self._remembered:
            return
        bookmark = Bookmark(self._settings.home, self._component, self._shared.mapping.name)
        if not bookmark.lock():
            return
        try:
            marks = bookmark.load()
            if known.reads != REDIS and marks.epoch < known.epoch:
                self._adopt(known, bookmark)
            elif marks.epoch < known.epoch or (marks.retired != known.retired):
                _note(known, bookmark)
            self._remembered = known
        except BridgeError as error:
            logger.debug("%s: the bookmark is not told of the switch: %s", self._component, error)
        finally:
            bookmark.close()

    def modes(self) -> ComponentModes:
        """Says from where a component reads now, files or Redis, and brings its bookmark into accord with that.

        Raises NotYet: nobody can tell now.
        """
        known = self._keeper.known
        if known is None:
            self._keeper.wait_first()
            known = self._keeper.known
        if known is not None and known.reads == REDIS:
            self._note(known)
            return known
        if not self._bookmark.locked:
            if not self._bookmark.lock():
                raise NotYet("another worker of this component reads the files")
            self._bookmark.load()
        marks = self._bookmark.marks
        if known is None:
            if marks.doubt or marks.reads == REDIS or not self._vouched.alive():
                raise NotYet("Redis is away, or does not say from where to read")
            return ComponentModes(marks.reads, marks.writes, marks.epoch)
        if known.epoch > marks.epoch:
            self._adopt(known, self._bookmark)
        elif marks.doubt or marks.retired:
            marks.doubt, marks.retired = "", known.retired
            self._bookmark.save()
        self._keeper.shown.epoch = marks.epoch
        return known

    def awaited(self) -> ComponentModes:
        """Waits until it is known from where a component reads, files or Redis, and returns its modes."""
        pause = Backoff(0.02, 2.0)
        while True:
            try:
                return self.modes()
            except NotYet:
                with self._keeper.turn:
                    self._keeper.turn.wait(pause.next())

    def _adopt(self, known: ComponentModes, bookmark: Bookmark) -> None:
        """Takes into a component's bookmark the read position that a switch translated after the bookmark was written.

        Raises BridgeError: the position in the files is not known.
        """
        connection = self._dial()
        try:
            said = announced_position(connection, self._shared.keys, self._component) or {}
        finally:
            connection.close()
        marks = bookmark.marks
        files, epoch = said.get("files"), said.get("epoch", 0)
        if isinstance(files, dict) and isinstance(epoch, int) and epoch > marks.epoch:
            marks.places = {name: SourcePosition.from_json(place) for name, place in files.items()}
            marks.entry, marks.aside = str(said.get("entry", "0-0")), [str(value) for value in said.get("aside", ())]
            marks.following, marks.unclean, marks.begun = False, [], True
        elif marks.reads == REDIS:
            hint = f"say from where: bridge cutover {self._component} --from OFFSET"
            raise BridgeError("the position in the files is not known", where=self._component, hint=hint)
        _note(known, bookmark)

    def _note(self, known: ComponentModes) -> None:
        """Notes in the bookmark that the component reads Redis, and frees its lock for the next reader of the files."""
        self._keeper.shown.epoch = known.epoch
        marks = self._bookmark.marks
        if not self._bookmark.locked and (marks.reads, marks.epoch, marks.retired) == (
            REDIS, known.epoch, known.retired,
        ):  # fmt: skip
            return
        if self._bookmark.lock():
            marks = self._bookmark.load()
            if marks.epoch < known.epoch or marks.doubt or marks.retired != known.retired:
                _note(known, self._bookmark)
            self._bookmark.close()

    def first_start(self, connection: Connection) -> str | None:
        """Returns the ID from which a component that was never here reads the stream; None for one that was here.

        None means that only a switch knows where the component is.
        """
        marks = Bookmark(self._settings.home, self._component, self._shared.mapping.name).load()
        was_here = marks.begun or bool(marks.places)
        was_here = was_here or announced_position(connection, self._shared.keys, self._component) is not None
        if not was_here and self._keeper.known is not None and self._keeper.known.retired:
            told = ending_of(connection, self._shared.keys)  # `bridge purge` has removed its other traces
            was_here = self._component in (told.groups if told is not None else self._vouched.groups())
        if was_here:
            return None
        begin = self._start.group_id()
        if begin != "$":
            with suppress(RedisRefused):  # an ACL user of before need not have the right to ask
                self._tell(stream_info(connection, self._shared.keys.stream).length, whole=begin == "0")
        return begin

    def _tell(self, many: int, *, whole: bool) -> None:
        """Tells in the log how many entries a component reads as history at its first start."""
        if many:
            stream = self._shared.keys.stream.decode(errors="replace")
            much = f"{'first' if whole else 'up to'} {counted(many, 'entry', 'entries')}"
            said = "%s reads for the first time, and %s of history in %s; `start` says another place"
            logger.warning(said, self._component, much, stream)

    def remedy(self, modes: ComponentModes) -> str:
        """Names the command that sets from where a component reads on when its consumer group is gone."""
        if modes.retired:
            return f"`XGROUP CREATE {self._shared.mapping.stream.key} {self._component} ID` says from where it goes on"
        return "`bridge rollback NAME --from` tells it"

    def begun(self) -> None:
        """Notes in a component's bookmark that it has begun to read Redis: a group that is gone after this was lost.

        Another holder of the bookmark's lock only writes a line into it: it is waited for, `WRITTEN` seconds at most,
        because a message that is given before the note would be given again if the group were lost.
        """
        deadline = time.monotonic() + WRITTEN
        while not self._bookmark.marks.begun and time.monotonic() < deadline:
            if not self._bookmark.lock():
                with self._keeper.turn:
                    self._keeper.turn.wait(0.01)
                continue
            self._bookmark.load()
            self._bookmark.marks.begun = True
            self._bookmark.save()
            self._bookmark.close()


def _note(known: ComponentModes, bookmark: Bookmark) -> None:
    """Writes into a locked bookmark the sides that Redis says the component reads and writes. Raises BridgeError."""
    marks = bookmark.marks
    marks.reads, marks.writes, marks.epoch, marks.doubt = known.reads, known.writes, known.epoch, ""
    marks.retired = known.retired
    bookmark.save()
