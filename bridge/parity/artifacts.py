"""Parity of artifacts: compares announced paths and digests with the files, each read and hashed anew.

A file may change or be deleted after its announcement. Parity reports that, but does not count it as a difference as
long as the ledger vouches for the announcement.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass

from bridge.core.config import Settings
from bridge.core.model import Origin, Row, digest, paired, parse_origin, shown_name
from bridge.core.wording import counted
from bridge.files.artifact_digest import hashed, inside
from bridge.files.folder import MessageFolder
from bridge.ledger import spool_messages
from bridge.parity.log.classify import Difference
from bridge.parity.log.tally import ComparisonTally
from bridge.parity.proof_point import ProofPoint
from bridge.parity.prove import Interrupted, ParityCheck
from bridge.parity.result import ParityResult, verdict_of
from bridge.parity.snapshot import Cursors
from bridge.parity.whole_file_account import WholeFileAccount
from bridge.streams.connect import Connection


@dataclass(frozen=True, slots=True)
class Announcement:
    """The last announcement of an artifact's path in the stream, for parity.

    `sent`: the digest of what was sent under this origin, as the ledger knows it.
    """

    entry: bytes
    row: Row
    origin: Origin
    sent: bytes | None

    @property
    def vouched(self) -> bool:
        """Whether the ledger confirms that the artifact's announcement was sent as it stands in the stream."""
        return self.sent == digest(*self.row)


class ArtifactCheck(ParityCheck):
    """Parity check that compares a folder of artifacts with their announcements in the stream."""

    def _of_both(self, since: ProofPoint | None, connection: Connection, marks: Connection) -> ParityResult | None:
        if since is not None:
            return None
        cursors = Cursors(self._mapping, self._settings, connection, self._keys, self._ledger)
        cursors.say_who()
        source, tally, account = self._mapping.source, ComparisonTally(), WholeFileAccount()
        folder = MessageFolder(self._settings.root, self._mapping.files, source.exclude)
        announced = self._announced(connection, cursors, tally)
        batch = cursors.books.batch(source.path)
        hasher, counts = hashlib.blake2b(digest_size=16), {"present": 0, "changed": 0, "gone": 0, "never_announced": 0}
        fates: dict[bytes, str] = {}
        for path in sorted(announced):
            announcement = announced[path]
            outcome, there = self._outcome(folder, path, announcement, batch)
            fates[path] = outcome
            if outcome == "present":
                counts["present"] += 1
                tally.file_born += 1
                hasher.update(path + b"\0" + announcement.row[7] + b"\0")
            elif outcome in counts:
                counts[outcome] += 1
            else:
                tally.differences.append(
                    Difference(
                        outcome, shown_name(path), None, None, announcement.entry.decode(), there,
                        b"|".join(announcement.row), row=announcement.row,
                        raw_name=folder.below(os.fsdecode(path)) or b"",
                    )
                )  # fmt: skip
        first = min(
            (
                (known_announcement.origin.generation, known_announcement.origin.offset)
                for known_announcement in announced.values()
            ),
            default=(1 << 62, 0),
        )
        for some in folder.scan():
            account.total += len(some)
            for found in some:
                path = os.path.join(folder.root, found.name)  # noqa: PTH118 - bytes
                if path in announced:
                    if fates[path] in counts:
                        account.add("carried")
                    else:
                        account.lost(shown_name(path), "its announcement says something else")
                    continue
                known = (
                    spool_messages.carried(self._ledger, self._mapping.stream.key, found.name) if self._ledger else None
                )
                if known is None or known[0] > batch:
                    tally.in_flight += 1
                    account.add("waiting")
                    continue
                if cursors.added > cursors.length and known[:2] < first:
                    tally.unverifiable += 1
                    account.add("carried")
                    continue
                account.lost(shown_name(path), "it was never announced")
                counts["never_announced"] += 1
                tally.differences.append(Difference("missing_in_redis", shown_name(path), None, None, None, path, None,
                                                    raw_name=found.name))  # fmt: skip
            if self._stop.is_set():
                raise Interrupted
        if tally.unverifiable:
            tally.why["trimmed: entries were removed from the stream"] = tally.unverifiable
        tally.digest = hasher.hexdigest()
        account.of_stream(cursors.length, cursors.added, cursors.trimmed.count)
        verdict = "differs" if any(account.unaccounted()) else verdict_of(tally, 0)
        result = ParityResult(self._mapping.name, self._mapping.stream.key, verdict, tally)
        result.account = account
        result.files, result.entry, result.unit = {source.path: batch}, cursors.last, "batch"
        result.artifacts, result.lost, result.alive = counts, cursors.lost, cursors.alive
        result.notes = [*in_words(counts), *cursors.notes]
        return result

    def _announced(self, connection: Connection, cursors: Cursors, tally: ComparisonTally) -> dict[bytes, Announcement]:
        """Reads from the stream, for parity, the last announcement of each artifact, by the path that the files have.

        Earlier announcements told what the path held before. An announcement that says the same as the one before it is
        a difference.
        """
        found: dict[bytes, Announcement] = {}
        seen: set[tuple[Origin, bytes]] = set()
        fields = self._mapping.codec("x").fields
        for rows in self._entries(connection, cursors.last, cursors.length):
            for raw_id, pairs in rows:
                if pairs is None:
                    continue
                tally.entries += 1
                values = paired(pairs)
                origin = parse_origin(values.get(b"origin", b""))
                if origin is None or any(name not in values for name in fields):
                    tally.not_mirrored += 1
                    continue
                row = tuple(values[name] for name in fields)
                before = found.get(path := self._settings.paths.back(values[b"path"]))
                if (origin, path) in seen or (before is not None and before.row == row):
                    name, entry = shown_name(values[b"path"]), raw_id.decode()
                    tally.differences.append(Difference("duplicate", name, None, None, entry, None, None, row=row))
                    continue
                seen.add((origin, path))
                stream = self._mapping.stream.key
                sent = (
                    spool_messages.digest_at(self._ledger, stream, origin.generation, origin.offset)
                    if self._ledger
                    else None
                )
                found[path] = Announcement(raw_id, row, origin, sent)
        return found

    def _outcome(
        self, folder: MessageFolder, path: bytes, announcement: Announcement, batch: int
    ) -> tuple[str, bytes | None]:
        """Compares an announced artifact with its file: present, changed or gone, or else a kind of difference.

        Returns with a difference the digest of the file that lies there, where there is one. Raises Interrupted.
        """
        name = folder.below(os.fsdecode(path))
        there = folder.find(name) if name is not None and b".." not in name.split(b"/") else None
        known = hashed(path, self._stop.is_set) if there is not None else None
        if self._stop.is_set():
            raise Interrupted
        if known is None:
            return ("gone", None) if announcement.vouched else ("missing_in_file", None)
        if announcement.sent is not None and not announcement.vouched:
            return "altered", known.sha256.encode()
        if (known.sha256.encode(), b"%d" % known.facts.size) == (announcement.row[7], announcement.row[6]):
            return "present", None
        last = spool_messages.carried(self._ledger, self._mapping.stream.key, name) if self._ledger and name else None
        if last is not None and (announcement.origin.generation, announcement.origin.offset) < last[:2] <= (
            batch,
            1 << 62,
        ):
            return "missing_in_redis", known.sha256.encode()
        return ("changed", None) if announcement.vouched else ("altered", known.sha256.encode())


def of_lines(
    connection: Connection, key: bytes, settings: Settings, stop: Callable[[], bool]
) -> tuple[dict[str, int], list[str]] | None:
    """Counts for parity the artifacts named in lines of a log, by the digests in Redis: present, changed or gone.

    None: there are none. Raises Interrupted, RedisLost, RedisRefused.
    """
    counts, cursor = {"present": 0, "changed": 0, "gone": 0}, b"0"
    root = os.fsencode(settings.root)
    known: dict[bytes, tuple[bytes, int]] = {}
    while True:
        cursor, found = connection.call("HSCAN", key, cursor, "COUNT", 500)
        for raw in found[1::2]:
            facts = json.loads(raw)
            if facts.get("status") != "present":
                counts["gone"] += facts.get("status") == "gone"
                continue
            mine = settings.paths.back(os.fsencode(facts["path"]))
            real = inside(root, mine)
            if mine not in known:
                there = hashed(real, stop) if real is not None else None
                known[mine] = (there.sha256.encode(), there.facts.size) if there is not None else (b"", 0)
            if stop():
                raise Interrupted
            same = known[mine] == (facts["sha256"].encode(), facts["size"])
            counts["present" if same else "changed" if known[mine][0] else "gone"] += 1
        if cursor == b"0":
            break
    return (counts, in_words(counts)) if any(counts.values()) else None


def in_words(counts: dict[str, int]) -> list[str]:
    """Says in words how many artifacts parity found present and unchanged, changed since, or gone since."""
    words = {"present": "present and unchanged", "changed": "changed since", "gone": "gone since"}
    return [f"{counted(counts[name], 'artifact')} {word}" for name, word in words.items() if counts[name]]
