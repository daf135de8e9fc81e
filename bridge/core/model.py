"""The nouns (DESIGN §3). Frozen values; no I/O, no clock."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

FIELDS = (b"role", b"timestamp", b"type", b"data")
"""The four fields of every message, in the order they stand in an entry."""

ORIGIN_FIELD = b"origin"

Row = tuple[bytes, ...]
"""One message's values, in the order of its codec's `fields`."""

EntryId = tuple[int, int]
"""A stream entry's ID: milliseconds, sequence."""

ZERO_ID: EntryId = (0, 0)
HIGHEST_ID: EntryId = ((1 << 64) - 1, (1 << 64) - 1)


def parse_id(raw: bytes) -> EntryId:
    """`b"1771004967322-0"` as a pair. Raises ValueError for anything else."""
    ms, _, seq = raw.partition(b"-")
    return int(ms), int(seq)


def parse_ids(raws: Sequence[bytes]) -> list[EntryId]:
    """`parse_id` of many, in one go."""
    numbers = map(int, b"-".join(raws).split(b"-") if raws else ())
    return list(zip(numbers, numbers, strict=True))


def format_id(entry_id: EntryId) -> bytes:
    """The inverse of `parse_id`."""
    return b"%d-%d" % entry_id


def after(entry_id: EntryId) -> bytes:
    """The smallest ID above `entry_id`, for an XRANGE that begins behind it."""
    ms, seq = entry_id
    return b"%d-%d" % (ms, seq + 1) if seq < (1 << 64) - 1 else b"%d-0" % (ms + 1)


def before(entry_id: EntryId) -> EntryId:
    """The largest ID below `entry_id`."""
    ms, seq = entry_id
    return (ms, seq - 1) if seq else (ms - 1, (1 << 64) - 1) if ms else ZERO_ID


class Position(NamedTuple):
    """A place in a source: which generation, and the byte in it."""

    generation: int
    offset: int


class Origin(NamedTuple):
    """Where a file-born entry's line begins: source number, generation, byte offset."""

    source: int
    generation: int
    offset: int


_ORIGIN = re.compile(rb"(\d{1,9})\.(\d{1,9}):(\d{1,15})")


def parse_origin(raw: bytes) -> Origin | None:
    """`b"<source>.<generation>:<offset>"` as an Origin, or None when it is not of that form."""
    match = _ORIGIN.fullmatch(raw)
    return Origin(int(match[1]), int(match[2]), int(match[3])) if match else None


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a generation is known by (DESIGN §6.2): digests of its first bytes and of those before `offset`.

    `head` covers the first `head_len` bytes (up to 1 KiB), `tail` the up to 128 bytes before `offset`;
    both are BLAKE2b-128 in hex, of uncompressed bytes.
    """

    offset: int
    head_len: int
    head: str
    tail: str

    def to_json(self) -> bytes:
        """Encodes the fingerprint of a closed generation as a field of the Redis hash `bridge:{S}:generations`."""
        return b'{"size":%d,"head_len":%d,"head":"%b","tail":"%b"}' % (
            self.offset, self.head_len, self.head.encode(), self.tail.encode(),
        )  # fmt: skip

    @classmethod
    def from_json(cls, stored: bytes) -> Fingerprint:
        """Parses a field of the Redis hash `bridge:{S}:generations`. Raises ValueError, KeyError: it is none."""
        facts = json.loads(stored)
        return cls(int(facts["size"]), int(facts["head_len"]), str(facts["head"]), str(facts["tail"]))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The forward cursor of one source, as Redis keeps it.

    `entry` is the ID of the last entry sent, `sent` how many of the source were ever sent.
    """

    generation: int
    at: Fingerprint
    entry: EntryId | None = None
    sent: int = 0

    @property
    def position(self) -> Position:
        """Generation and offset."""
        return Position(self.generation, self.at.offset)

    def to_json(self) -> bytes:
        """A JSON object. Where entries go with it, the guard script adds `entry`: the server knows the ID."""
        at = self.at
        entry = b',"entry":"%d-%d"' % self.entry if self.entry else b""
        sent = b',"sent":%d' % self.sent if self.sent else b""
        return b'{"generation":%d,"offset":%d,"head_len":%d,"head":"%b","tail":"%b"%b%b}' % (
            self.generation, at.offset, at.head_len, at.head.encode(), at.tail.encode(), sent, entry,
        )  # fmt: skip

    @classmethod
    def from_json(cls, raw: bytes) -> Checkpoint:
        """The inverse. Raises ValueError or KeyError when it is not a checkpoint."""
        d = json.loads(raw)
        entry = d.get("entry")
        return cls(
            int(d["generation"]),
            Fingerprint(int(d["offset"]), int(d["head_len"]), str(d["head"]), str(d["tail"])),
            parse_id(entry.encode()) if entry else None,
            int(d.get("sent", 0)),
        )


def paired(fields: Sequence[bytes]) -> dict[bytes, bytes]:
    """An entry's or a hash's fields, name, value, name, value … as Redis gives them, as value by name."""
    return dict(zip(fields[0::2], fields[1::2], strict=True))


def digest(*parts: bytes) -> bytes:
    """BLAKE2b-128 of a value, or of several with their lengths, so that no two lists of values are alike."""
    if len(parts) == 1:
        return hashlib.blake2b(parts[0], digest_size=16).digest()
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        hasher.update(b"%d:" % len(part) + part)
    return hasher.digest()


def hex_digest(raw: bytes) -> str:
    """`digest` of one value, as fingerprints and reports show it."""
    return digest(raw).hex()


def shown(raw: bytes, limit: int | None = 200) -> str:
    """Untrusted bytes for a terminal: control characters and bytes that are not UTF-8 escaped, cut at `limit`."""
    limit = 6 * len(raw) if limit is None else limit
    text = raw[: limit * 4].decode("utf-8", "backslashreplace")
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def shown_name(raw: bytes) -> str:
    """A file's path for people, and for the ledger's texts: any two paths are shown as two."""
    return shown(raw, None)


def as_json(raw: bytes) -> str | dict[str, str]:
    """Bytes for `--json`: text if valid UTF-8, else `{"base64": …}`."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        import base64

        return {"base64": base64.b64encode(raw).decode()}
