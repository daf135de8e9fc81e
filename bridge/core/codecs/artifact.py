"""The artifact codec: a row announces an artifact by path (as the other side names it), type, size and digest. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from bridge.core.codecs import Codec, Decoded, FieldRule
from bridge.core.codecs.chunk import no_pointers
from bridge.core.errors import ConfigError
from bridge.core.model import FIELDS, Row, digest

FACTS = (b"path", b"artifact_type", b"size", b"sha256")


def announcement(name: bytes, written: bytes, sha256: bytes) -> bytes:
    """Computes the identity of an artifact's announcement: digests the file's name, time of writing and SHA-256. Pure.

    `written` is the time of writing as the announcement says it, and `sha256` the digest in hexadecimal digits. One
    announcement with an identity follows another with the same only where a file of other content lay there between
    them.
    """
    return digest(name, written, sha256)


class ArtifactCodec(Codec):
    """The codec of artifacts, forward only: a file is announced, not carried.

    `data` is the path.
    """

    fields: tuple[bytes, ...] = FIELDS + FACTS
    invertible = False

    def __init__(self, rules: dict[str, FieldRule]) -> None:
        for name in ("timestamp", "data"):
            if name in rules:
                raise ConfigError(
                    f"message.{name} means nothing for artifacts: it is the time of writing, and the path"
                )
        no_pointers(rules)
        told = {name: rule.const if rule.const is not None else rule.default for name, rule in rules.items()}
        self._role, self._type = told.get("role"), told.get("type", b"artifact_saved")
        if self._role is None or not self._type:
            raise ConfigError("artifacts need message.role", hint='a const, or { name = "folder" }')

    def row(self, path: bytes, written: bytes, kind: bytes, size: int, sha256: bytes) -> Row:
        """Makes the row that announces one artifact."""
        return self._role or b"", written, self._type or b"", path, path, kind, b"%d" % size, sha256

    def decode(self, lines: Sequence[bytes]) -> Decoded:
        """Returns for each line the reason that it is no message: an artifact's announcement is never read."""
        return Decoded(["an artifact is announced, not read"] * len(lines), [0] * len(lines))

    def encode(self, row: Row) -> bytes | str:
        """Returns the reason that a row has no line: artifacts are not written as lines."""
        return "artifacts have no lines"

    def encode_all(self, rows: Sequence[Row]) -> list[bytes | str]:
        """Returns for each row the reason that it has no line: artifacts are not written as lines."""
        return ["artifacts have no lines"] * len(rows)
