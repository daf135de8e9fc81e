"""How far the mirror is in each file, on its way to `bridge:{S}:mirror`: it goes with the next request."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from bridge.model import EntryId, format_id
from bridge.streams.keys import Keys
from bridge.streams.resp import pack


class Announced:
    """Of one mapping. What Redis did not confirm is said again, to the next connection."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._place: dict[str, tuple[int, int]] = {}
        self._due: dict[bytes, bytes] = {}
        self._sent: dict[bytes, bytes] = {}

    @property
    def waits(self) -> bool:
        """Whether there is anything to be said."""
        return bool(self._due)

    def written(self, label: str, entry: EntryId, generation: int, end: int, put: Mapping[str, object]) -> None:
        """All up to this entry is in this file, or folder; the last write ended there. `put`: the witness's word."""
        self._place[label] = generation, end
        self.passed(label, entry, put)

    def passed(self, label: str, entry: EntryId, put: Mapping[str, object]) -> None:
        """All up to this entry is in this file, and the last of them needed no line."""
        generation, end = self._place.get(label, (0, 0))
        word = {"id": format_id(entry).decode(), "generation": generation, "end": end, **put}
        self._due[os.fsencode(label)] = json.dumps(word).encode()

    def commands(self) -> list[bytes]:
        """What is to go out before the next request."""
        self._sent, self._due = self._due, {}
        return [pack("HSET", self._keys.mirror, label, word) for label, word in self._sent.items()]

    def confirmed(self) -> bool:
        """The request was answered; whether anything had gone out with it."""
        sent, self._sent = self._sent, {}
        return bool(sent)

    def dropped(self) -> None:
        """The connection is gone: what was not confirmed is due again."""
        self._due, self._sent = self._sent | self._due, {}
