"""Names every Redis key the bridge touches (DESIGN §5.3). Braces keep a stream's keys in one cluster slot."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of the Redis keys of one stream and of what the bridge keeps about the stream, as bytes."""

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
    components: bytes
    retired: bytes

    @classmethod
    def of(cls, stream: str) -> Keys:
        """Makes the names of the Redis keys for a stream."""
        s = stream.encode()
        names = ("meta", "checkpoint", "sources", "generations", "mirror", "late", "floor", "artifacts", "positions",
                 "producers", "trimmed", "aligned", "redacted", "lease", "components", "retired")  # fmt: skip
        return cls(s, *(b"bridge:{%b}:%b" % (s, name.encode()) for name in names))

    @property
    def own(self) -> tuple[bytes, ...]:
        """The Redis keys that the bridge needs to carry a stream: all but the stream and `bridge:{S}:retired`."""
        return tuple(getattr(self, field.name) for field in fields(self) if field.name not in ("stream", "retired"))


def expires(key: bytes) -> bool:
    """Whether a key is one of the bridge's that expire: a lease, or a heartbeat but for those that never end."""
    beat = key.startswith(b"bridge:health:") and not key.startswith(b"bridge:health:2:")
    return beat or (key.startswith(b"bridge:") and key.endswith(b":lease"))


def health(process: str) -> bytes:
    """Makes the name of the Redis key of a process's heartbeat, `bridge:health:<instance>[/<group>]`."""
    return f"bridge:health:{process}".encode()
