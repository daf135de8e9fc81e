"""Tells Redis the mirror's progress in each file: fields of the hash `bridge:{S}:mirror`, with its next request."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from bridge.core.model import EntryId, format_id
from bridge.streams.keys import Keys
from bridge.streams.lease import writing


class MirrorProgress:
    """Keeps the mirror's progress in each file until Redis confirmed it.

    Progress that Redis did not confirm is sent again over the next connection.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._place: dict[str, tuple[int, int]] = {}
        self._due: dict[bytes, bytes] = {}
        self._sent: dict[bytes, bytes] = {}

    @property
    def waits(self) -> bool:
        """Whether the mirror has progress in its files that is to be sent to Redis."""
        return bool(self._due)

    def ends(self, label: str, generation: int, end: int) -> None:
        """Notes the mirror's progress in a file or folder: its last write ended at byte `end` of `generation`."""
        self._place[label] = generation, end

    def passed(self, label: str, entry: EntryId, put: Mapping[str, object]) -> None:
        """Notes as progress to be told to Redis that the mirror is done with entries up to `entry` in a file or folder.

        `put` is the write witness's count, which is sent along.
        """
        generation, end = self._place.get(label, (0, 0))
        word = {"id": format_id(entry).decode(), "generation": generation, "end": end, **put}
        self._due[os.fsencode(label)] = json.dumps(word).encode()

    def commands(self, nonce: str) -> list[bytes]:
        """Packs the mirror's progress that Redis does not know as commands, to be sent before the next request.

        The commands do nothing where the stream is no longer carried under `nonce`, with which the mirror began.
        """
        self._sent, self._due = self._due, {}
        mirror = self._keys.mirror
        return [writing(self._keys, nonce, "HSET", mirror, label, word) for label, word in self._sent.items()]

    def confirmed(self) -> bool:
        """Drops the mirror's progress that was sent, as Redis answered the request; False: no progress was sent."""
        sent, self._sent = self._sent, {}
        return bool(sent)

    def take_back(self) -> None:
        """Drops the mirror's unconfirmed progress, whose entries may be lost; where the files end stays known."""
        self._due, self._sent = {}, {}

    def dropped(self) -> None:
        """Makes the mirror's progress due again that was sent over a lost connection without a confirmation."""
        self._due, self._sent = self._sent | self._due, {}
