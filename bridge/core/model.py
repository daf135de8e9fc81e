"""The data model (DESIGN §3): entry IDs, positions, origins, fingerprints and checkpoints as frozen values.

No I/O, no clock.
"""

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
"""A message as a row: its values in the order of its codec's `fields`."""

EntryId = tuple[int, int]
"""The ID of a stream's entry: milliseconds and sequence number."""

UTF8_MARK = b"\xef\xbb\xbf"
"""The mark that some programs write at the beginning of a text in UTF-8: no part of the first line or the document."""

MARKED = "it begins with a UTF-8 mark, which is passed over where a file begins with it"
"""Why a message whose line, or document, begins with such a mark cannot be written into a file."""

ZERO_ID: EntryId = (0, 0)
HIGHEST_ID: EntryId = ((1 << 64) - 1, (1 << 64) - 1)


def parse_id(raw: bytes) -> EntryId:
    """Parses an entry ID such as `b"1771004967322-0"` into its pair of numbers. Raises ValueError for anything else."""
    ms, _, seq = raw.partition(b"-")
    return int(ms), int(seq)


def parse_ids(raws: Sequence[bytes]) -> list[EntryId]:
    """Parses many entry IDs into pairs of numbers in one go, each as `parse_id` does."""
    numbers = map(int, b"-".join(raws).split(b"-") if raws else ())
    return list(zip(numbers, numbers, strict=True))


def format_id(entry_id: EntryId) -> bytes:
    """Formats an entry ID, a pair of numbers, as Redis writes it, such as `b"1771004967322-0"`."""
    return b"%d-%d" % entry_id


def after(entry_id: EntryId) -> bytes:
    """Returns the smallest entry ID above `entry_id`, as bytes for an XRANGE that begins behind that entry."""
    ms, seq = entry_id
    return b"%d-%d" % (ms, seq + 1) if seq < (1 << 64) - 1 else b"%d-0" % (ms + 1)


def before(entry_id: EntryId) -> EntryId:
    """Returns the largest entry ID below `entry_id`; 0-0 when there is none below."""
    ms, seq = entry_id
    return (ms, seq - 1) if seq else (ms - 1, (1 << 64) - 1) if ms else ZERO_ID


def without_mark(raw: bytes) -> bytes:
    """Returns a text, or a document, in UTF-8 without the mark that it may begin with."""
    return raw.removeprefix(UTF8_MARK)


class Position(NamedTuple):
    """A position in a source: the number of a generation, and the byte offset in it."""

    generation: int
    offset: int


class Origin(NamedTuple):
    """The origin of a file-born entry: source number, generation and byte offset at which the entry's line begins."""

    source: int
    generation: int
    offset: int


_ORIGIN = re.compile(rb"(\d{1,9})\.(\d{1,9}):(\d{1,15})")


def parse_origin(raw: bytes) -> Origin | None:
    """Parses an entry's origin, `b"<source>.<generation>:<offset>"`; None when the bytes are not of that form."""
    match = _ORIGIN.fullmatch(raw)
    return Origin(int(match[1]), int(match[2]), int(match[3])) if match else None


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The fingerprint of a generation (DESIGN §6.2): digests of its first bytes and of the bytes before `offset`.

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
        """Parses a fingerprint from a field of the Redis hash `bridge:{S}:generations`.

        Raises ValueError or KeyError when the field holds none.
        """
        facts = json.loads(stored)
        return cls(int(facts["size"]), int(facts["head_len"]), str(facts["head"]), str(facts["tail"]))


NO_BYTES = Fingerprint(0, 0, "", "")
"""The fingerprint of a generation of which nothing was read."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The checkpoint of one source: the forward cursor as Redis keeps it.

    `entry` is the ID of the last entry sent, `sent` how many of the source were ever sent.
    """

    generation: int
    at: Fingerprint
    entry: EntryId | None = None
    sent: int = 0

    @property
    def position(self) -> Position:
        """The position, generation and offset, up to which a checkpoint says that its source was carried."""
        return Position(self.generation, self.at.offset)

    def to_json(self) -> bytes:
        """Encodes the checkpoint as the JSON object that Redis keeps.

        Where entries are sent with it, the guard script adds `entry`: the server knows the ID.
        """
        at = self.at
        entry = b',"entry":"%d-%d"' % self.entry if self.entry else b""
        sent = b',"sent":%d' % self.sent if self.sent else b""
        return b'{"generation":%d,"offset":%d,"head_len":%d,"head":"%b","tail":"%b"%b%b}' % (
            self.generation, at.offset, at.head_len, at.head.encode(), at.tail.encode(), sent, entry,
        )  # fmt: skip

    @classmethod
    def from_json(cls, raw: bytes) -> Checkpoint:
        """Parses a checkpoint from the JSON object that Redis keeps.

        Raises ValueError or KeyError when the bytes are no checkpoint.
        """
        d = json.loads(raw)
        entry = d.get("entry")
        return cls(
            int(d["generation"]),
            Fingerprint(int(d["offset"]), int(d["head_len"]), str(d["head"]), str(d["tail"])),
            parse_id(entry.encode()) if entry else None,
            int(d.get("sent", 0)),
        )


def paired(fields: Sequence[bytes]) -> dict[bytes, bytes]:
    """Turns an entry's or a hash's fields from the flat list of Redis (name, value, name, value …) into a dict."""
    return dict(zip(fields[0::2], fields[1::2], strict=True))


def digest(*parts: bytes) -> bytes:
    """Computes the BLAKE2b-128 digest of a value, or of several values with their lengths.

    The lengths keep any two lists of values from having the same digest.
    """
    if len(parts) == 1:
        return hashlib.blake2b(parts[0], digest_size=16).digest()
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        hasher.update(b"%d:" % len(part) + part)
    return hasher.digest()


def hex_digest(raw: bytes) -> str:
    """Computes the BLAKE2b-128 digest of one value in hex, as fingerprints and reports show it."""
    return digest(raw).hex()


def shown(raw: bytes, limit: int | None = 200) -> str:
    """Escapes untrusted bytes for a terminal: control characters and bytes that are not UTF-8; cuts at `limit`."""
    limit = 6 * len(raw) if limit is None else limit
    text = raw[: limit * 4].decode("utf-8", "backslashreplace")
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def shown_name(raw: bytes) -> str:
    """Escapes a file's path for people and for the ledger's texts, uncut: any two paths are shown as two."""
    return shown(raw, None)


def as_json(raw: bytes) -> str | dict[str, str]:
    """Encodes bytes for `--json` output: as text if they are valid UTF-8, else as `{"base64": …}`."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        import base64

        return {"base64": base64.b64encode(raw).decode()}
