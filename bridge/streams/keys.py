"""Every key the bridge touches (DESIGN §5.3), in one table. Braces keep a stream's keys in its cluster slot."""

from __future__ import annotations

from dataclasses import dataclass, fields

FORMAT = b"1"
"""The layout version that `bridge:{S}:meta` carries."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The Redis keys of one stream and of what the bridge keeps about it, as bytes."""

    stream: bytes
    meta: bytes
    checkpoint: bytes
    sources: bytes
    generations: bytes
    mirror: bytes
    late: bytes
    floor: bytes
    artifacts: bytes
    positions: bytes
    producers: bytes
    trimmed: bytes
    aligned: bytes
    redacted: bytes
    lease: bytes
    retired: bytes

    @classmethod
    def of(cls, stream: str) -> Keys:
        """Makes the table of Redis keys for stream `stream`."""
        s = stream.encode()
        names = ("meta", "checkpoint", "sources", "generations", "mirror", "late", "floor", "artifacts", "positions",
                 "producers", "trimmed", "aligned", "redacted", "lease", "retired")  # fmt: skip
        return cls(s, *(b"bridge:{%b}:%b" % (s, name.encode()) for name in names))

    @property
    def own(self) -> tuple[bytes, ...]:
        """The keys that the bridge needs while it carries a stream: all but the stream, and the word of its end."""
        return tuple(getattr(self, field.name) for field in fields(self) if field.name not in ("stream", "retired"))


def health(instance: str) -> bytes:
    """The Redis key of an instance's heartbeat."""
    return f"bridge:health:{instance}".encode()
