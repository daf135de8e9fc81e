"""What the mirror says it put out, held against what was born for each file (DESIGN §6.5). Pure."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bridge.model import EntryId, parse_id


@dataclass(slots=True)
class Account:
    """One file's: `put` bytes for the entries behind `base` and up to `upto`, and the bytes that those make."""

    put: int
    base: EntryId
    upto: EntryId
    born: int = 0


class Witness:
    """`said` is `bridge:{S}:mirror`; `removed` entries were removed from the stream by now, `since` is read from."""

    def __init__(self, said: Mapping[bytes, bytes], removed: int, since: EntryId) -> None:
        self._accounts: dict[str, Account] = {}
        for label, raw in said.items():
            word = json.loads(raw)
            if "put" not in word or word.get("removed") != removed:
                continue  # what was removed was born as well, and nobody knows how much it was
            base = parse_id(str(word["base"]).encode())
            if base >= since:
                account = Account(int(word["put"]), base, parse_id(word["id"].encode()))
                self._accounts[os.fsdecode(label)] = account

    def born(self, name: str, ids: Sequence[bytes], lines: Sequence[bytes]) -> None:
        """Redis-born entries, in stream order, and their lines in this file, without newlines."""
        account = self._accounts.get(name)
        if account is None or not ids:
            return
        if parse_id(ids[0]) > account.base and parse_id(ids[-1]) <= account.upto:
            account.born += sum(map(len, lines)) + len(lines)
            return
        for entry, line in zip(ids, lines, strict=True):
            if account.base < parse_id(entry) <= account.upto:
                account.born += len(line) + 1

    def too_much(self) -> list[str]:
        """In words, for each file: more bytes of ours were put into it than were born for it."""
        return [
            f"the mirror put {account.put:,} bytes into {name}, and entries for {account.born:,} were born:"
            " lines stand twice"
            for name, account in self._accounts.items() if account.put > account.born
        ]  # fmt: skip
