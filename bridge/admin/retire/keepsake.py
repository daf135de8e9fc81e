"""Makes the keepsake files beside the messages of a retired mapping: README, report, index of the archive, digests."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from typing import Any

from bridge.admin.stream_files import ASIDE_FILE, ENTRIES_FILE, StreamFiles
from bridge.continuity.archive_reader import ArchiveReader
from bridge.core.config import Settings
from bridge.core.mapping import Mapping
from bridge.core.model import ZERO_ID, format_id
from bridge.core.server_address import masked
from bridge.ledger.archive_index import parts_of
from bridge.ledger.store import Ledger
from bridge.parity.report import page
from bridge.parity.result import ParityResult
from bridge.streams.connect import Connection
from bridge.streams.keys import Keys
from bridge.streams.reader import groups_of
from bridge.streams.trim import HoldingGroup, read_trimmed

INDEX = "archive.tsv"
"""The file that lists each part of the archive: file, first byte, bytes, entries, first and last ID, with tabs."""


@dataclass(frozen=True, slots=True)
class Keepsake:
    """Makes the keepsake files of a retired mapping.

    `report`: the facts for report.json; `held`: a consumer group that keeps entries below the floor in the stream.
    """

    settings: Settings
    mapping: Mapping
    ledger: Ledger
    connection: Connection
    result: ParityResult
    report: dict[str, Any]
    held: HoldingGroup | None

    def files(self, kept: StreamFiles) -> dict[str, bytes]:
        """Makes the content of the keepsake files that lie beside a retired mapping's messages, by file name.

        Raises LedgerError, RedisLost, RedisRefused.
        """
        told = {
            "messages": kept.messages, "not_lines": kept.aside, "last": format_id(kept.last).decode(),
            "trimmed": kept.trimmed, "files": kept.digests,
        }  # fmt: skip
        index = self._index()
        found = {
            "report.json": json.dumps(self.report | told, indent=2).encode() + b"\n",
            "report.html": page([self.result], self.report["at"]).encode(),
            "README.md": self._readme(kept, archived=bool(index)).encode(),
        }
        if index:
            found[INDEX] = index
        sums = kept.digests | {name: hashlib.sha256(raw).hexdigest() for name, raw in found.items()}
        found["SHA256SUMS"] = "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode()
        return {name if name not in kept.digests else f"bridge-{name}": raw for name, raw in found.items()}

    def _index(self) -> bytes:
        """Makes the keepsake's index of the archive: its parts, in order, up to where the stream begins."""
        archive = ArchiveReader(self.mapping, self.settings.state_dir, self.ledger)
        floor = read_trimmed(self.connection, Keys.of(self.mapping.stream.key)).floor
        rows = []
        for span in archive.chain(floor):
            for part in parts_of(self.ledger, self.mapping.stream.key, span):
                ids = [format_id(listed.id).decode() for listed in part.listed]
                rows.append("\t".join(map(str, (part.path, part.at, part.size, len(ids), ids[0], ids[-1]))) + "\n")
        return "".join(rows).encode()

    def _readme(self, kept: StreamFiles, *, archived: bool) -> str:
        from jinja2 import Environment, PackageLoader, StrictUndefined

        env = Environment(loader=PackageLoader("bridge.cutover"), undefined=StrictUndefined, autoescape=False)
        stream = self.mapping.stream.key
        trimmed = read_trimmed(self.connection, Keys.of(stream))
        facts = {
            "mapping": self.mapping.name, "stream": stream, "redis": masked(self.settings.redis_url),
            "root": str(self.settings.root), "who": self.report["who"],
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.report["at"])),
            "kept": kept, "last": format_id(kept.last).decode(), "lines": kept.lines, "aside": ASIDE_FILE,
            "entries": ENTRIES_FILE if ENTRIES_FILE in kept.digests else "", "files": sorted(kept.digests),
            "floor": format_id(trimmed.floor).decode() if trimmed.floor > ZERO_ID else "",
            "archive": str(self.settings.state_dir / "archive" / self.mapping.name) if archived else "",
            "index": INDEX, "held": self.held.group if self.held is not None else "",
            "groups": [row.name.decode(errors="replace") for row in groups_of(self.connection, Keys.of(stream).stream)],
        }  # fmt: skip
        return env.get_template("retired.md").render(**facts) + "\n"
