"""A folder with a file per message beside a rig: what a legacy program puts there, and the oracle."""

from __future__ import annotations

import json
import os
from pathlib import Path
from threading import Event
from typing import Any

from bridge.ledger.store import Ledger
from bridge.parity.result import ParityResult
from bridge.parity.run_parity import ParityRunner
from bridge.streams.reader import Entry, entries
from tests.support.rig import Rig, wait_until

INBOX = "hestai:inbox"


def document(identity: str, *, at: int = 0, status: str = "pending", kind: str = "note", **more: Any) -> bytes:
    """A message as HestAI writes it, spread over lines."""
    facts = {"uuid": identity, "role": "agent", "doc_type": kind, "timestamp": f"2026-03-02T09:{at // 60:02}:{at % 60:02}",
             "status": status, **more}  # fmt: skip
    return json.dumps(facts, indent=2).encode() + b"\n"


class Inbox:
    """One folder of one rig."""

    def __init__(self, rig: Rig, mapping: str = "hestai-inbox", stream: str = INBOX) -> None:
        self.rig = rig
        self.stream = stream
        self.folder = rig.root / "inbox"
        self.folder.mkdir(exist_ok=True)
        rig.write_config(mapping=mapping)

    def put(self, identity: str, *, name: str = "", at: int = 0, **more: Any) -> Path:
        """A whole message, moved in."""
        return self.move_in(name or f"{identity}.json", document(identity, at=at, **more))

    def move_in(self, name: str, content: bytes) -> Path:
        """Any file, written under a hidden name and renamed."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        hidden = path.with_name(f".{os.getpid()}-{abs(hash(name))}")
        hidden.write_bytes(content)
        hidden.rename(path)
        return path

    def add(self, identity: str, entry_id: str = "*", **more: Any) -> bytes:
        """A message that is born in Redis."""
        data = document(identity, **more)
        facts = json.loads(data)
        return bytes(self.rig.redis.call(
            "XADD", self.stream, entry_id, "role", facts["role"], "timestamp", facts["timestamp"],
            "type", facts["doc_type"], "data", data,
        ))  # fmt: skip

    def entries(self) -> list[Entry]:
        """The whole stream."""
        return list(entries(self.rig.redis, self.stream.encode()))

    def ids(self) -> list[str]:
        """The identities of all entries, in stream order."""
        return [json.loads(entry.fields[7])["uuid"] for entry in self.entries()]

    def until_count(self, count: int) -> None:
        """Waits for so many entries."""
        wait_until(lambda: len(self.entries()) >= count, lambda: f"{len(self.entries())} of {count}: {self.rig.said()}")

    def files(self) -> dict[str, bytes]:
        """Every file that is no hidden one, by its path below the folder."""
        found = (path for path in self.folder.rglob("*") if path.is_file() and not path.name.startswith("."))
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in found}

    def hidden(self) -> list[str]:
        """The hidden files that are left."""
        return sorted(path.name for path in self.folder.rglob(".*"))

    def identities(self) -> list[str]:
        """The identities that lie in the folder, sorted."""
        return sorted(json.loads(raw)["uuid"] for raw in self.files().values())

    def until(self, count: int) -> list[str]:
        """The identities in the stream, once there are so many."""
        wait_until(lambda: len(self.entries()) >= count, lambda: f"{count} entries: {self.ids()} {self.rig.said()}")
        return self.ids()

    def until_files(self, count: int) -> list[str]:
        """The identities in the folder, once there are so many files."""
        wait_until(lambda: len(self.files()) >= count, lambda: f"{count} files: {self.files()} {self.rig.said()}")
        return self.identities()

    def parity(self, *, settling: float = 0.0) -> ParityResult:
        """What parity says, in this process."""
        settings = self.rig.settings()
        path = settings.state_dir / "ledger.db"
        ledger = Ledger(path) if path.exists() else None
        try:
            proof = ParityRunner(
                settings, list(settings.mappings), ledger, Event(), lambda *_: None, "test", settling=settling
            )
            [result] = proof.run()
            return result
        finally:
            if ledger is not None:
                ledger.close()

    def check(self, file_born: list[str], redis_born: list[str]) -> None:
        """Every message once on each side, file-born ones in this order, and parity agrees."""
        said, ids = self.rig.said(), self.ids()
        mine, theirs = set(file_born), set(redis_born)
        assert [item for item in ids if item in mine] == file_born, f"{ids} {said}"
        assert sorted(item for item in ids if item in theirs) == sorted(redis_born), said
        assert len(ids) == len(file_born) + len(redis_born), f"{ids} {said}"
        assert self.identities() == sorted([*file_born, *redis_born]), said
        result = self.parity()
        assert result.verdict == "equal", f"{result.tally} {result.notes} {said}"
        assert result.tally.compared == len(ids), f"{result.tally} {said}"
