"""Takes, renews and releases the lease on a stream: one process carries it, for ten seconds at a time (DESIGN §5.3).

`meta.nonce` is that process's: its writes are guarded by the nonce, so a process that slept while another took the
lease over writes nothing any more, whatever its clock says.
"""

from __future__ import annotations

import functools
import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from bridge.core.model import ZERO_ID, EntryId, paired, parse_id
from bridge.streams.connect import Connection, Refusal, refused
from bridge.streams.keys import Keys
from bridge.streams.reader import StreamInfo, to_info
from bridge.streams.resp import pack
from bridge.streams.stream_metadata import StreamMetadata, read_metadata
from bridge.streams.validation import a_target, checked

LASTS_MS = 10_000
"""Milliseconds that a lease on a stream holds; the process that carries renews it every two seconds."""

_TAKE = b"""if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
if not ARGV[6] or (redis.call('HGET', KEYS[2], 'timeline') or '') == ARGV[6] then
  redis.call('HSET', KEYS[2], 'nonce', ARGV[4], 'host', ARGV[5])
end
return 1"""

_RENEW = b"""if redis.call('HGET', KEYS[2], 'nonce') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1"""

_RELEASE = b"""if redis.call('HGET', KEYS[2], 'nonce') ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])"""


_WRITE = b"""if redis.call('HGET', KEYS[1], 'nonce') ~= ARGV[1] then return 0 end
redis.call(ARGV[2], KEYS[2], unpack(ARGV, 3))
return 1"""


@dataclass(frozen=True, slots=True)
class LeaseHolder:
    """The holder of a lease: a process that carries a stream, its host, and its state directory (device and inode)."""

    nonce: str
    host: str
    boot: str
    device: int
    inode: int
    pid: int

    @classmethod
    def of(cls, nonce: str, state_dir: Path) -> LeaseHolder:
        """Describes this process, on this state directory, as the holder of a lease. Raises OSError."""
        there = os.stat(state_dir)
        return cls(nonce, socket.gethostname(), boot_id(), there.st_dev, there.st_ino, os.getpid())

    @classmethod
    def parsed(cls, raw: bytes) -> LeaseHolder | None:
        """Parses the holder of a lease from its JSON in Redis; None where that is no such thing."""
        try:
            facts = json.loads(raw)
            return cls(str(facts["nonce"]), str(facts["host"]), str(facts["boot"]), int(facts["device"]),
                       int(facts["inode"]), int(facts["pid"]))  # fmt: skip
        except (ValueError, KeyError, TypeError):
            return None

    def to_json(self) -> bytes:
        """Makes the JSON of a lease's holder, as the lease in Redis has it."""
        return json.dumps(asdict(self)).encode()

    def same_place(self, other: LeaseHolder) -> bool:
        """Whether two holders of a lease work on one state directory.

        Whoever has the directory's lock knows that the other has ended.
        """
        return (self.host, self.boot, self.device, self.inode) == (other.host, other.boot, other.device, other.inode)

    @property
    def shown(self) -> str:
        """The holder of a lease in words, for people."""
        return f"process {self.pid} on {self.host}"


@functools.cache
def boot_id() -> str:
    """Returns the ID of this machine's boot, by which lease holders are compared; empty where it is not told."""
    try:
        if sys.platform == "darwin":
            asked = ["sysctl", "-n", "kern.bootsessionuuid"]
            return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (OSError, subprocess.SubprocessError):
        return ""


@dataclass(frozen=True, slots=True)
class LeaseState:
    """The state of a stream's lease in Redis: lease, holder, nonce, timeline, newest mirrored entry, and last ID."""

    lease: bytes
    holder: LeaseHolder | None
    nonce: bytes
    timeline: str
    mirrored: EntryId
    last: EntryId


def standing(connection: Connection, keys: Keys) -> LeaseState:
    """Reads the state of a stream's lease from Redis, in one go. Raises RedisLost, RedisRefused."""
    connection.send(
        pack("GET", keys.lease) + pack("HMGET", keys.meta, "nonce", "timeline") + pack("HGETALL", keys.mirror)
        + pack("XINFO", "STREAM", keys.stream)
    )  # fmt: skip
    raw, meta, mirror, about = [connection.read() for _ in range(4)]
    for reply, key in ((raw, keys.lease), (meta, keys.meta), (mirror, keys.mirror)):
        if isinstance(reply, Refusal):
            raise refused(reply, key.decode(errors="replace"))
    nonce, timeline = (bytes(value or b"") for value in meta)
    said = paired(mirror)
    checked(keys.mirror, said, a_target)
    mirrored = max((parse_id(json.loads(word)["id"].encode()) for word in said.values()), default=ZERO_ID)
    holder = LeaseHolder.parsed(raw) if raw else None
    last = to_info(about, keys.stream).last_id
    return LeaseState(bytes(raw or b""), holder, nonce, timeline.decode(errors="replace"), mirrored, last)


def take(connection: Connection, keys: Keys, mine: LeaseHolder, found: bytes, timeline: str | None) -> int | None:
    """Takes for a process the lease on a stream in Redis, if it is still as that process `found` it; else returns None.

    Returns the server's time, in milliseconds since 1970. The nonce is left alone, so that nothing is written, where
    Redis holds another timeline than the one that the ledger knows; None: it knows none. Raises RedisLost,
    RedisRefused.
    """
    known = [timeline] if timeline is not None else []
    own, mine_now = (keys.lease, keys.meta), (mine.to_json(), LASTS_MS, mine.nonce.encode(), mine.host)
    done, (seconds, micros) = connection.calls(
        pack("EVAL", _TAKE, len(own), *own, found, *mine_now, *known), pack("TIME")
    )
    return int(seconds) * 1000 + int(micros) // 1000 if done else None


def writing(keys: Keys, nonce: str, command: str, key: bytes, *args: bytes | str | int) -> bytes:
    """Packs a command on one of the bridge's keys that is run only while this process's nonce stands, else answers 0.

    The nonce does not stand where another process took the lease over, or where Redis holds other data than those this
    process compared.
    """
    return pack("EVAL", _WRITE, 2, keys.meta, key, nonce, command, *args)


def watch(connection: Connection, keys: Keys) -> tuple[bytes | None, StreamInfo]:
    """Watches the stream's `meta` in Redis: `unchanged` then tells whether all that was read is of the same data.

    Returns the nonce of the process that carries the stream, and the facts about the stream. A server that holds other
    data for a moment (SWAPDB, FLUSHALL, a resynchronisation) touches what is watched. Raises RedisLost, RedisRefused.
    """
    asked = (pack("UNWATCH"), pack("WATCH", keys.meta), pack("HGET", keys.meta, "nonce"))
    connection.send(b"".join(asked) + pack("XINFO", "STREAM", keys.stream))
    *told, about = [connection.read() for _ in range(len(asked) + 1)]
    for reply in told:
        if isinstance(reply, Refusal):
            raise refused(reply, keys.meta.decode(errors="replace"))
    return told[-1], to_info(about, keys.stream)


def unchanged(connection: Connection, keys: Keys) -> bool:
    """Whether Redis held the same data of the stream since its `meta` was watched; ends the WATCH."""
    return connection.calls(pack("MULTI"), pack("HGET", keys.meta, "nonce"), pack("EXEC"))[-1] is not None


def take_anew(connection: Connection, keys: Keys, mine: LeaseHolder, books: StreamMetadata) -> bool:
    """Takes the lease on the stream under a new nonce, if the stream's metadata is still as in `books`; else False.

    The nonce names the timeline that begins here: data without it are from before, or from a fork, and are compared
    anew. Raises RedisLost, RedisRefused.
    """
    connection.calls(pack("WATCH", keys.meta, keys.checkpoint, keys.generations))
    if not read_metadata(connection, keys).of_the_same(books):
        connection.call("UNWATCH")
        return False
    done = connection.calls(
        pack("MULTI"), pack("SET", keys.lease, mine.to_json(), "PX", LASTS_MS),
        pack("HSET", keys.meta, "nonce", mine.nonce, "timeline", mine.nonce, "host", mine.host), pack("EXEC"),
    )[-1]  # fmt: skip
    return done is not None


def renew(connection: Connection, keys: Keys, mine: LeaseHolder) -> bool:
    """Renews the lease on the stream for ten seconds more; False when another process took over.

    Raises RedisLost, RedisRefused.
    """
    return bool(connection.calls(renewing(keys, mine))[0])


def renewing(keys: Keys, mine: LeaseHolder) -> bytes:
    """Packs the command that renews the lease on a stream as `renew` does: it answers 0 where another has it."""
    return pack("EVAL", _RENEW, 2, keys.lease, keys.meta, mine.nonce.encode(), mine.to_json(), LASTS_MS)


def release(connection: Connection, keys: Keys, nonce: str) -> None:
    """Releases the lease on the stream, if this process's nonce is still there. Raises RedisLost, RedisRefused."""
    connection.call("EVAL", _RELEASE, 2, keys.lease, keys.meta, nonce.encode())
