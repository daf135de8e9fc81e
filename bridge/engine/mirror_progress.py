"""The mirror tells Redis how far it came in each file: fields of `bridge:{S}:mirror`, sent with its next request."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from bridge.core.model import EntryId, format_id
from bridge.streams.keys import Keys
from bridge.streams.lease import writing


class MirrorProgress:
    """The list of what a mapping's mirror has to tell Redis of how far it came in each file, until that is confirmed.

    What Redis did not confirm is said again, to the next connection.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._place: dict[str, tuple[int, int]] = {}
        self._due: dict[bytes, bytes] = {}
        self._sent: dict[bytes, bytes] = {}

    @property
    def waits(self) -> bool:
        """Whether the mirror has anything to tell Redis of how far it came in its files."""
        return bool(self._due)

    def ends(self, label: str, generation: int, end: int) -> None:
        """Notes where the mirror's last write into this file, or folder, ended: at byte `end` of `generation`."""
        self._place[label] = generation, end

    def passed(self, label: str, entry: EntryId, put: Mapping[str, object]) -> None:
        """Notes for Redis that the mirror is done with all entries up to this one in this file, or folder.

        `put` is the witness's word, which goes with it.
        """
        generation, end = self._place.get(label, (0, 0))
        word = {"id": format_id(entry).decode(), "generation": generation, "end": end, **put}
        self._due[os.fsencode(label)] = json.dumps(word).encode()

    def commands(self, nonce: str) -> list[bytes]:
        """Packs what the mirror has to tell Redis of how far it came as commands, to go before its next request.

        They do nothing where the stream is not carried under this nonce any more, with which the mirror began.
        """
        self._sent, self._due = self._due, {}
        mirror = self._keys.mirror
        return [writing(self._keys, nonce, "HSET", mirror, label, word) for label, word in self._sent.items()]

    def confirmed(self) -> bool:
        """Forgets what the mirror told Redis, as the request was answered; False if nothing had gone out with that."""
        sent, self._sent = self._sent, {}
        return bool(sent)

    def take_back(self) -> None:
        """Forgets what the mirror was to tell Redis of entries that may be lost; where its files end stays known."""
        self._due, self._sent = {}, {}

    def dropped(self) -> None:
        """Makes due again what the mirror told Redis and a connection that is gone did not confirm."""
        self._due, self._sent = self._sent | self._due, {}
