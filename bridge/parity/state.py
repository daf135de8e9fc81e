"""Parity of state: compares the file and the Redis hash of each latest value, both read anew."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass

from bridge.core.codecs.document import iso_time
from bridge.core.codecs.timestamps import older
from bridge.core.model import FIELDS, Row, digest, paired, parse_origin, shown_name
from bridge.files.folder import MessageFolder, ReadFile
from bridge.ledger.states import owner_of, values
from bridge.parity.log.classify import Difference
from bridge.parity.log.tally import ComparisonTally
from bridge.parity.proof_point import ProofPoint
from bridge.parity.prove import Interrupted, ParityCheck
from bridge.parity.result import ParityResult, verdict_of
from bridge.parity.snapshot import Cursors
from bridge.parity.whole_file_account import WholeFileAccount
from bridge.streams import latest_value
from bridge.streams.connect import Connection
from bridge.streams.latest_value import LIMIT, StateValue

VALUE_PAUSE = 0.05
"""Seconds until parity looks again at a latest value that is in flight, as long as a bridge runs."""


@dataclass(frozen=True, slots=True)
class StateSides:
    """A latest value of a state mapping on both sides: its file, and its hash in Redis.

    `said` is the digest that the hash names, `kind` the type of the key in Redis.
    """

    taken: ReadFile | None
    value: StateValue | None
    said: bytes = b""
    kind: bytes = b"hash"

    @property
    def file(self) -> bytes | None:
        """The bytes of a latest value as its state file holds them; None: there is no file."""
        return self.taken.raw if self.taken is not None else None

    @property
    def hash(self) -> bytes | None:
        """The bytes of a latest value as its state hash in Redis holds them; None: there is no hash."""
        return self.value.data if self.value is not None else None


class StateCheck(ParityCheck):
    """Parity check that compares state files, which each hold a latest value, with their hashes in Redis.

    A value whose digest the ledger has not noted yet is in flight.
    """

    _by_file = True
    """Whether the files own the state values, as of the last look; else the hashes own them."""
    _undecided = False
    """Whether the other side is to own the state values: which side counts is not known."""

    def _of_both(self, since: ProofPoint | None, connection: Connection, marks: Connection) -> ParityResult | None:
        if since is not None:
            return None
        known = self._known()
        cursors = Cursors(self._mapping, self._settings, connection, self._keys, self._ledger)
        cursors.say_who()
        owner = owner_of(self._ledger, self._keys.stream.decode(), self._mapping.source.owner)
        self._by_file, self._undecided = owner.side == "file", owner.asked
        source, tally, hasher, account = (
            self._mapping.source,
            ComparisonTally(),
            hashlib.blake2b(digest_size=16),
            WholeFileAccount(),
        )
        folder = MessageFolder(self._settings.root, source.path, source.exclude)
        files = {found_file.name for some in folder.scan() for found_file in some}
        account.total = len(files)
        until = time.monotonic() + (self._settling if cursors.alive else 0)
        for name in sorted(files | known.keys()):
            both = self._both(folder, connection, name)
            outcome = self._outcome(name, both, known.get(name, (b"", b"")))
            while outcome in ("in_flight", "touched") and time.monotonic() < until:
                if self._stop.wait(VALUE_PAUSE):
                    raise Interrupted
                known, both = self._known(), self._both(folder, connection, name)
                outcome = self._outcome(name, both, known.get(name, (b"", b"")))
            outcome = "equal" if outcome == "touched" else outcome
            if both.kind not in (b"hash", b"none"):
                cursors.notes.append(f"the key of {shown_name(name)} holds a {both.kind.decode()}, and no hash")
            self._count(tally, name, both, outcome)
            if name in files:
                self._explain(account, name, outcome)
            if outcome == "equal":
                hasher.update(name + b"\0" + (both.file or b"") + b"\0")
        if self._mapping.stream.history:
            self._check_history(connection, cursors, tally)
        tally.digest = hasher.hexdigest()
        account.of_stream(cursors.length, cursors.added, cursors.trimmed.count)
        verdict = "differs" if any(account.unaccounted()) else verdict_of(tally, 0)
        result = ParityResult(self._mapping.name, self._mapping.stream.key, verdict, tally)
        result.entry, result.notes, result.unit = cursors.last, cursors.notes, "value"
        result.account = account
        return result

    def _explain(self, account: WholeFileAccount, name: bytes, outcome: str) -> None:
        """Notes in the account what became of a state file that was listed."""
        if outcome == "equal":
            account.add("carried" if self._by_file else "mirrored")
        elif outcome in ("in_flight", "large", "none"):  # none: the file is gone, or no value, as the hashes own them
            fates = {"in_flight": "waiting", "large": "aside"}
            account.add(fates.get(outcome, "carried" if self._by_file else "aside"))
        else:
            account.lost(shown_name(name), "its hash does not hold what it holds")

    def _check_history(self, connection: Connection, cursors: Cursors, tally: ComparisonTally) -> None:
        """Finds in a state's history stream the values that forward entered twice, or with a version never reached.

        A value that is entered again with a higher version is no difference: somebody had deleted the hash.
        """
        names = {int(number): name for name, number in cursors.books.sources.items()}
        newest: dict[int, tuple[int, bytes, Row]] = {}
        seen: set[tuple[int, bytes]] = set()

        def tell(kind: str, source: int, entry: bytes, row: Row) -> None:
            name = names.get(source, b"?")
            tally.differences.append(
                Difference(kind, shown_name(name), None, None, entry.decode(), None, row[3], row=row, raw_name=name)
            )

        for rows in self._entries(connection, cursors.last, cursors.length):
            for entry, pairs in rows:
                values = paired(pairs or [])
                origin = parse_origin(values.get(b"origin", b""))
                if origin is None or any(name not in values for name in FIELDS):
                    continue
                tally.entries += 1
                row = tuple(values[name] for name in FIELDS)
                reached = newest[origin.source][0] if origin.source in newest else -1
                if origin.generation <= reached and (origin.source, digest(*row)) in seen:
                    tell("duplicate", origin.source, entry, row)
                seen.add((origin.source, digest(*row)))
                newest[origin.source] = (origin.generation, entry, row)
        for source, (version, entry, row) in newest.items():
            key = latest_value.key_of(self._keys, names.get(source, b""))
            there = connection.call("HGET", key, "version") or b""
            if there.isdigit() and version > int(there):
                tell("missing_in_file", source, entry, row)

    def _known(self) -> dict[bytes, tuple[bytes, bytes]]:
        return values(self._ledger, self._mapping.stream.key) if self._ledger is not None else {}

    def _both(self, folder: MessageFolder, connection: Connection, name: bytes) -> StateSides:
        taken = folder.read(name, LIMIT)
        kind = latest_value.look(connection, self._keys, [(name, False)])[name].kind
        found = latest_value.read(connection, self._keys, name) if kind == b"hash" else None
        return StateSides(taken, *found, kind=kind) if found is not None else StateSides(taken, None, kind=kind)

    def _outcome(self, name: bytes, both: StateSides, known: tuple[bytes, bytes]) -> str:
        """Compares one state value: equal, touched, in_flight, large, none, or a kind of difference."""
        by_file = self._by_file
        ours, theirs = (both.file, both.hash) if by_file else (both.hash, both.file)
        if both.taken is not None and both.taken.facts.size > LIMIT:
            return "large"
        contradicts = both.value is not None and both.value.sha256 != both.said
        if contradicts and not by_file:
            return "in_flight"  # somebody is setting the hash's fields one after the other
        if ours is not None and ours == theirs:
            if not by_file:
                return "equal"
            return "altered" if contradicts else self._fields(name, both, known[1])
        if ours is None:
            return "none" if by_file or not known[0] else "missing_in_redis"
        if known[0] != hashlib.sha256(ours).hexdigest().encode():
            refused = not by_file and both.value is not None and older(both.value.timestamp, known[1])
            return "altered" if refused else "in_flight"
        if self._undecided:
            return "in_flight"
        if theirs is not None:
            return "altered"
        return "missing_in_redis" if by_file else "missing_in_file"

    def _fields(self, name: bytes, both: StateSides, noted: bytes) -> str:
        """Compares time and role in a state value's hash with the file that owns the value: equal, touched or altered.

        A file whose time alone changed since it was `noted` is touched: the bridge gives the hash its time.
        """
        if both.taken is None or both.value is None:
            return "altered"
        row = self._mapping.codec(os.fsdecode(name)).decode([b""]).rows[0]
        if both.value.role != (row[0] if isinstance(row, tuple) else b""):
            return "altered"
        if both.value.timestamp == iso_time(both.taken.facts.written):
            return "equal"
        return "touched" if both.value.timestamp == noted else "altered"

    def _count(self, tally: ComparisonTally, name: bytes, both: StateSides, outcome: str) -> None:
        by_file = self._by_file
        if outcome == "equal":
            tally.file_born += by_file
            tally.redis_born += not by_file
        elif outcome == "in_flight":
            tally.in_flight += 1
        elif outcome == "large":
            tally.unverifiable += 1
            tally.why[f"{shown_name(name)} is too large for a value"] = 1
        elif outcome == "none":
            tally.taken_away += both.hash is not None
        else:
            from_file = by_file or outcome == "missing_in_redis"
            ours, theirs = (both.file, both.hash) if from_file else (both.hash, both.file)
            tally.differences.append(self._difference(outcome, name, ours, theirs))

    def _difference(self, kind: str, name: bytes, ours: bytes | None, theirs: bytes | None) -> Difference:
        return Difference(
            kind, shown_name(name), None, None, None, ours, theirs, file_born=self._by_file, raw_name=name
        )
