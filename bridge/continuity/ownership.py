"""Settles the ownership of a stream: which ledger, and which process with that ledger, carries it (DESIGN §5.3).

A copied state directory has the same ledger in it, and one that was restored from a backup has an older ledger. So
ledger and Redis are compared on every connect: the ledger knows the nonces of all processes that carried with it, and
Redis knows the nonce of the last process. A process whose nonce the ledger does not know carried with another copy of
the ledger, and this ledger does not know what that process wrote.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from bridge.core.errors import BridgeError, LeaseHeld, NotOwner, NotYet
from bridge.core.model import ZERO_ID, EntryId, paired, parse_id
from bridge.ledger.process_nonces import nonces, note_nonce
from bridge.ledger.retired import retired
from bridge.ledger.sources import StreamMemory, stream_memory
from bridge.ledger.staleness_mark import read_mark
from bridge.ledger.store import Ledger
from bridge.streams import lease
from bridge.streams.components import ComponentHash
from bridge.streams.connect import Connection, Refusal, refused
from bridge.streams.keys import Keys
from bridge.streams.layout import (
    OWN_STREAMS,
    check_layout,
    instance_in,
    is_owner,
    move_layout,
    name_group,
    others_stream,
    owner_of,
    prepare_for_moves,
    rename_instance,
    say_alive,
)
from bridge.streams.lease import LeaseHolder, LeaseState
from bridge.streams.reader import StreamInfo, file_born, to_info
from bridge.streams.replicas import wait_for_replicas
from bridge.streams.resp import pack
from bridge.streams.retired import ending_and_meta
from bridge.streams.stream_metadata import StreamMetadata, read_streams
from bridge.streams.writer import claim

RENEWED = 2.0
"""Seconds between two renewals of the lease by which a process owns its stream."""


def claim_stream(
    connection: Connection, components: ComponentHash, ledger: Ledger, memory: StreamMemory | None, group: str = ""
) -> None:
    """Makes sure, as a direction connects, that this ledger owns the stream, and claims one that has no owner.

    Keys of an earlier layout are moved to this one first. `components`: those of the mapping's stream; `group`: the
    group of bridge.toml whose process this is, for whoever looks for its heartbeat.
    Raises NotOwner: another ledger owns it, or this stream's ledger was lost, or its migration has ended and this
    ledger does not know; NewerLayout, RedisLost, RedisRefused.
    """
    keys, mapping, instance = components.keys, components.mapping, components.instance
    where = keys.stream.decode(errors="replace")
    ended, meta = ending_and_meta(connection, keys)
    if ended is not None and where not in retired(ledger):
        raise NotOwner(
            f"the stream is retired, says Redis ({ended.said()}), and this ledger does not know: nothing is carried",
            where=where,
            hint="`bridge repair` lets it know; `bridge unretire` begins the mapping again",
        )
    check_layout(meta, keys.stream)
    holder = meta.get(b"owner")
    if holder is None:
        if memory is None and _carried(connection, keys):
            raise NotOwner(
                "the stream was carried before, but this ledger knows nothing of it",
                where=where,
                hint="`bridge repair` rebuilds the ledger from stream and files",
            )
        holder = claim(connection, keys, ledger.uuid, instance)
    if holder == ledger.uuid:
        move_layout(connection, keys, ledger.uuid, mapping, instance)
        name_group(connection, keys, meta, group)
        prepare_for_moves(connection, keys)
        return
    if is_owner(holder, ledger.uuid):
        rename_instance(connection, keys, instance_in(meta), instance)
        say_alive(connection, keys, ledger.uuid, instance)
        name_group(connection, keys, meta, group)
        prepare_for_moves(connection, keys)
        return
    meta = paired(connection.call("HGETALL", keys.meta))
    if not (whose := others_stream(meta, ledger.uuid, instance)):
        raise NotOwner(
            "the stream was carried with another ledger of this bridge: standing by",
            where=where,
            hint="if that one was lost or moved, `bridge repair` rebuilds it from stream and files",
        )
    raise NotOwner(
        f"{whose}: standing by",
        where=where,
        hint=OWN_STREAMS,
    )


def _carried(connection: Connection, keys: Keys) -> bool:
    found = read_streams(connection, [(keys, ZERO_ID)])[0]
    if isinstance(found, BridgeError):
        raise found
    info, books, _ = found
    if books.checkpoint or books.generations or books.mirror:
        return True
    return bool(info.length) and any(True for _ in file_born(connection, keys.stream))


def announced(books: StreamMetadata) -> EntryId:
    """Returns the newest entry that was mirrored, by the owner's `bridge:{S}:mirror` in Redis; 0-0 when none was."""
    return max((parse_id(json.loads(raw)["id"].encode()) for raw in books.mirror.values()), default=ZERO_ID)


class StreamLease:
    """This process's ownership of one stream: its nonce, and the lease that it takes and renews in Redis.

    The process holds its lock on the state directory meanwhile.
    """

    def __init__(self, keys: Keys, state_dir: Path) -> None:
        self.nonce = secrets.token_hex(8)
        self._keys = keys
        self._state_dir = state_dir
        self._found: bytes | None = None
        """The lease on the stream as Redis had it at this process's last look."""
        self._taken = False
        self._settled = ""
        """The nonce under which forward has compared ledger and stream and found them equal: the mirror may read."""
        self._renew_at = 0.0

    def holder(self, ledger: Ledger) -> tuple[bytes, bytes]:
        """Returns the owner and the nonce that `bridge:{S}:meta` holds while this process carries the stream."""
        return owner_of(ledger.uuid), self.nonce.encode()

    def doubt(self, connection: Connection, ledger: Ledger) -> str:
        """Says in words why this ledger may be older than what Redis knows of the stream; empty: it is not older.

        Raises LeaseHeld: another process carries the stream, or did until just now and may do so again.
        """
        there = self._standing(connection)  # read before the ledger, which is noted first and so is ahead
        stream, nonce = self._keys.stream.decode(), there.nonce.decode(errors="replace")
        marked = read_mark(ledger.path, ledger.uuid, stream)
        known = nonces(ledger, stream)
        if nonce and nonce not in known:
            return "a process carried the stream of which it knows nothing"
        if nonce and nonce != self.nonce and known[nonce] not in ("", ledger.place):
            return "it is another file than the one that carried the stream last"
        memory = stream_memory(ledger, stream)
        ours = memory is not None and memory.timeline == there.timeline  # another timeline is compared as a loss
        if memory is not None and ours and memory.mirror_cursor < there.mirrored <= there.last:
            return "Redis says that more was mirrored than it knows of"
        if memory is not None and memory.commits < marked:
            return "its mark says that more was mirrored than it knows of"
        return ""

    def take(self, connection: Connection, ledger: Ledger) -> int:
        """Takes ownership of the stream for this process with the lease in Redis; from here on this process carries.

        The lease must still be as `doubt` found it. Where Redis holds a timeline that the ledger does not know, the
        nonce is left alone, so that this process writes nothing until the timeline is compared and `take_anew` was
        called. Returns the server's time, in milliseconds since 1970. Raises LeaseHeld, NotYet, RedisLost, LedgerError.
        """
        found, self._found = self._found if self._found is not None else self._standing(connection).lease, None
        stream, self._settled = self._keys.stream.decode(), ""
        if not self._taken:
            note_nonce(ledger, stream, self.nonce, ledger.place)
        memory = stream_memory(ledger, stream)
        timeline = memory.timeline if memory is not None else None
        now = lease.take(connection, self._keys, self._me, found, timeline)
        if now is None:
            raise NotYet("another process claimed the stream at the same moment", where=stream)
        self._taken = True
        return now

    def write(self, connection: Connection, command: str, key: bytes, *args: bytes | str) -> None:
        """Runs a command on one of the bridge's keys, if this process still has the ownership of the stream.

        Raises NotYet where it does not, or where Redis holds other data by now; RedisLost, RedisRefused.
        """
        if not connection.calls(lease.writing(self._keys, self.nonce, command, key, *args))[0]:
            raise NotYet("the stream was replaced", where=self._keys.stream.decode(errors="replace"))

    def watch(self, connection: Connection) -> StreamInfo:
        """Watches the ownership of the stream (`meta`) while a direction reads what it decides on.

        `confirm` tells of a change. Returns the facts about the stream. Raises NotYet where this process does not carry
        what Redis holds.
        """
        nonce, info = lease.watch(connection, self._keys)
        if nonce != self.nonce.encode():
            raise NotYet("the stream was replaced", where=self._keys.stream.decode())
        return info

    def confirm(self, connection: Connection) -> None:
        """Confirms that Redis held the same stream under this ownership since `meta` was watched.

        Raises NotYet: it did not.
        """
        if not lease.unchanged(connection, self._keys):
            raise NotYet("the stream was replaced as it was read", where=self._keys.stream.decode())

    def take_anew(self, connection: Connection, ledger: Ledger, books: StreamMetadata) -> None:
        """Takes ownership of the stream under a new nonce, as it lost entries: what anybody read of its past is void.

        `books` is the stream's metadata that was compared. Raises NotYet where it changed meanwhile, RedisLost,
        RedisRefused, LedgerError.
        """
        stream, nonce = self._keys.stream.decode(), secrets.token_hex(8)
        note_nonce(ledger, stream, nonce, ledger.place)
        if not lease.take_anew(connection, self._keys, LeaseHolder.of(nonce, self._state_dir), books):
            raise NotYet("the stream was replaced while it was compared", where=stream)
        self.nonce, self._settled = nonce, ""

    def settle(self) -> None:
        """Lets the mirror read: ledger and stream agree, for as long as this process owns the stream."""
        self._settled = self.nonce

    def _standing(self, connection: Connection) -> LeaseState:
        there, self._found = lease.standing(connection, self._keys), None
        mine, holder = self._me, there.holder
        if holder is not None and holder.nonce != self.nonce and not holder.same_place(mine):
            raise LeaseHeld(
                f"{holder.shown} carries the stream with a ledger of the same identity: standing by",
                where=self._keys.stream.decode(errors="replace"),
                hint="is one state directory a copy of the other? Only one of them may run; the lease of one that"
                " was killed ends after ten seconds",
            )
        self._found = there.lease
        return there

    def check(self, connection: Connection) -> str:
        """Lets the mirror begin only when this process owns the stream and forward has compared ledger and stream.

        Returns the nonce under which forward compared. Raises NotYet.
        """
        settled = self._settled
        if not settled or connection.call("HGET", self._keys.meta, "nonce") != settled.encode():
            raise NotYet("forward compares ledger and stream first")
        return settled

    def check_read(self, holder: tuple[bytes | None, bytes | None], ledger: Ledger) -> None:
        """Lets the mirror use the entries that it read only if this ledger and this process owned the stream then.

        `holder` is owner and nonce of `bridge:{S}:meta`, read along with the entries. Raises NotYet, NotOwner.
        """
        owner, nonce = holder
        if owner is None or nonce is None:
            raise NotYet("the bridge's keys are gone: forward claims the stream first")
        if owner != owner_of(ledger.uuid):
            raise NotOwner("the stream was taken over by another bridge", where=self._keys.stream.decode())
        if nonce != self._settled.encode():
            raise NotYet("another process took over, or forward compares ledger and stream first")

    def renewed(self, connection: Connection, now: float) -> bool:
        """Renews the lease by which this process owns the stream in Redis, every two seconds at most.

        False: another process took the stream over. `now` in seconds of any clock. Raises RedisLost, RedisRefused.
        """
        return not self._renewal_due(now) or lease.renew(connection, self._keys, self._me)

    def renewed_and_info(self, connection: Connection, now: float) -> tuple[bool, StreamInfo]:
        """Renews the lease on the stream as `renewed` does, and reads the facts about the stream, in one write.

        Raises RedisLost, RedisRefused.
        """
        due = self._renewal_due(now)
        renewal = lease.renewing(self._keys, self._me) if due else b""
        connection.send(renewal + pack("XINFO", "STREAM", self._keys.stream))
        renewed = connection.read() if due else True
        info = to_info(connection.read(), self._keys.stream)
        if isinstance(renewed, Refusal):
            raise refused(renewed, self._keys.lease.decode(errors="replace"))
        return bool(renewed), info

    def _renewal_due(self, now: float) -> bool:
        if self._renew_at > now > self._renew_at - RENEWED:
            return False
        self._renew_at = now + RENEWED
        return True

    @property
    def _me(self) -> LeaseHolder:
        return LeaseHolder.of(self.nonce, self._state_dir)

    def await_replicas(self, connection: Connection, wanted: int, seconds: float) -> None:
        """Waits until so many replicas have all that the stream holds by now, after renewing the lease on it.

        The renewal is the write behind which they are waited for. Raises NotYet: another process took over;
        ReplicasBehind: they have it not within the seconds; RedisLost, RedisRefused.
        """
        if not wanted:
            return
        if not lease.renew(connection, self._keys, self._me):
            raise NotYet("another process took over", where=self._keys.stream.decode(errors="replace"))
        wait_for_replicas(connection, wanted, seconds)

    def release(self, connection: Connection) -> None:
        """Gives up this process's ownership of the stream, so that another state directory need not wait for the lease.

        Raises RedisLost, RedisRefused.
        """
        if self._taken:
            lease.release(connection, self._keys, self.nonce)
