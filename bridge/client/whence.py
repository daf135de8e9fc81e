"""From where a component reads, and its bookmark in accord with it."""

from __future__ import annotations

from collections.abc import Callable

from bridge.carry.shared import Shared
from bridge.client.keeper import Keeper
from bridge.config import Settings
from bridge.dial import Backoff
from bridge.errors import BridgeError, NotYet
from bridge.files.bookmark import Bookmark, Place
from bridge.streams.components import REDIS, Modes, announced_positions
from bridge.streams.connect import Connection


class Whence:
    """Of one log. Redis says it, through the keeper; the bookmark remembers what it said, for when it is away."""

    def __init__(
        self, shared: Shared, settings: Settings, component: str, bookmark: Bookmark, keeper: Keeper,
        dial: Callable[[], Connection], *, at_end: bool,
    ) -> None:  # fmt: skip
        self._shared = shared
        self._settings = settings
        self._component = component
        self._bookmark = bookmark
        self._keeper = keeper
        self._dial = dial
        self._at_end = at_end

    def modes(self) -> Modes:
        """From where to read, and the bookmark in accord with it. Raises NotYet: that cannot be said now."""
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
            if marks.doubt or marks.reads == REDIS:
                raise NotYet("Redis does not say from where to read")
            return Modes(marks.reads, marks.writes, marks.epoch)
        if known.epoch > marks.epoch:
            self._adopt(known)
        elif marks.doubt:
            marks.doubt = ""
            self._bookmark.save()
        self._keeper.shown.epoch = marks.epoch
        return known

    def awaited(self) -> Modes:
        """The same, when it can be said."""
        pause = Backoff(0.02, 2.0)
        while True:
            try:
                return self.modes()
            except NotYet:
                with self._keeper.turn:
                    self._keeper.turn.wait(pause.next())

    def _adopt(self, known: Modes) -> None:
        """Takes the position that a switch has translated, if one has since this bookmark was written."""
        connection = self._dial()
        try:
            said = announced_positions(connection, self._shared.keys).get(self._component, {})
        finally:
            connection.close()
        marks = self._bookmark.marks
        files, epoch = said.get("files"), said.get("epoch", 0)
        if isinstance(files, dict) and isinstance(epoch, int) and epoch > marks.epoch:
            marks.places = {name: Place.from_json(place) for name, place in files.items()}
            marks.entry, marks.aside = str(said.get("entry", "0-0")), [str(one) for one in said.get("aside", ())]
            marks.following, marks.unclean, marks.begun = False, [], True
        elif marks.reads == REDIS:
            hint = f"say from where: bridge cutover {self._component} --from OFFSET"
            raise BridgeError("the position in the files is not known", where=self._component, hint=hint)
        marks.reads, marks.writes, marks.epoch, marks.doubt = known.reads, known.writes, known.epoch, ""
        self._bookmark.save()

    def _note(self, known: Modes) -> None:
        """The bookmark says that the component reads Redis, and is free for whoever reads the files next."""
        self._keeper.shown.epoch = known.epoch
        marks = self._bookmark.marks
        if not self._bookmark.locked and (marks.reads, marks.epoch) == (REDIS, known.epoch):
            return
        if self._bookmark.lock():
            marks = self._bookmark.load()
            if marks.epoch < known.epoch or marks.doubt:
                marks.reads, marks.writes, marks.epoch, marks.doubt = known.reads, known.writes, known.epoch, ""
                self._bookmark.save()
            self._bookmark.close()

    def first_start(self, connection: Connection) -> str | None:
        """From where a component begins that was never here; None: it was, and only a switch knows where it is."""
        marks = Bookmark(self._settings.state_dir, self._component, self._shared.mapping.name).load()
        was_here = marks.begun or marks.places or self._component in announced_positions(connection, self._shared.keys)
        return None if was_here else "$" if self._at_end else "0"

    def begun(self) -> None:
        """It reads Redis, and the bookmark knows: a group that is gone after this was lost."""
        if not self._bookmark.marks.begun and self._bookmark.lock():
            self._bookmark.load()
            self._bookmark.marks.begun = True
            self._bookmark.save()
            self._bookmark.close()
