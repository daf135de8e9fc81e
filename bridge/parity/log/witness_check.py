"""Witness check: compares what the mirror says it wrote with what was born for each file (DESIGN §6.5). Pure."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bridge.core.model import EntryId, parse_id


@dataclass(slots=True)
class MirroredBytes:
    """The witness check's account of one file: the bytes that the mirror put into it, and those born for it.

    The mirror put `put` bytes into the file for the entries behind `base` and up to `upto`; `born` are the bytes that
    those entries make.
    """

    put: int
    base: EntryId
    upto: EntryId
    born: int = 0


class WitnessCheck:
    """Checks, by the mirror's witness, that the mirror put no more bytes into a file than were born for it.

    `said` is `bridge:{S}:mirror`; `removed` entries were removed from the stream by now, and `since` is where the
    stream is read from. `whole`: the mapping's folders are one account under this name, as parity does not ask which
    one a file went to.
    """

    def __init__(self, said: Mapping[bytes, bytes], removed: int, since: EntryId, *, whole: str | None = None) -> None:
        self._accounts: dict[str, MirroredBytes] = {}
        for label, raw in said.items():
            word = json.loads(raw)
            if "put" not in word or word.get("removed") != removed:
                continue  # removed entries were born too, with an unknown number of bytes
            base = parse_id(str(word["base"]).encode())
            if base >= since:
                account = MirroredBytes(int(word["put"]), base, parse_id(word["id"].encode()))
                name = os.fsdecode(label) if whole is None else whole
                self._accounts[name] = _joined(account, self._accounts.get(name))

    def born(self, name: str, ids: Sequence[bytes], lines: Sequence[bytes], ending: int = 1) -> None:
        """Counts in the witness check the bytes that Redis-born entries make for their file, in stream order.

        Each line is followed by `ending` more bytes: its newline.
        """
        account = self._accounts.get(name)
        if account is None or not ids:
            return
        if parse_id(ids[0]) > account.base and parse_id(ids[-1]) <= account.upto:
            account.born += sum(map(len, lines)) + len(lines) * ending
            return
        for entry, line in zip(ids, lines, strict=True):
            if account.base < parse_id(entry) <= account.upto:
                account.born += len(line) + ending

    def too_much(self) -> list[str]:
        """Says in words into which files, by the witness check, the mirror put more bytes than were born for them."""
        return [
            f"the mirror put {account.put:,} bytes into {name}, and entries for {account.born:,} were born:"
            " messages stand twice"
            for name, account in self._accounts.items() if account.put > account.born
        ]  # fmt: skip


def _joined(account: MirroredBytes, other: MirroredBytes | None) -> MirroredBytes:
    """Joins the witness check's accounts of two folders into one. Pure.

    The folder that is counted from the later base got nothing before that base.
    """
    if other is None:
        return account
    return MirroredBytes(account.put + other.put, min(account.base, other.base), max(account.upto, other.upto))
