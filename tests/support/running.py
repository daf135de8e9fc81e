"""A bridge that runs in the process of a test, a sweep at a time, and the mapping and lines that it carries."""

from __future__ import annotations

import time
from pathlib import Path

from bridge.engine.mirror import Mirror
from bridge.engine.worker import carrier_of
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.store import Ledger
from bridge.ledger.troubles import Troubles
from bridge.streams.dial import dialler
from tests.support.rig import Rig, delimited, line


def mapped(rig: Rig, path: str, *rotated: str) -> None:
    (rig.path / "mine.toml").write_text(delimited(path, *rotated, mirror="mirrored.txt"))
    rig.write_config(mapping="mine.toml")


def write(path: Path, *datas: str) -> None:
    with path.open("ab") as file:
        file.write(b"".join(map(line, datas)))


class Running:
    """A bridge that runs in this process, a sweep at a time."""

    def __init__(self, rig: Rig, *, dual: bool = False) -> None:
        settings = rig.settings()
        self.rig = rig
        self.ledger = Ledger(settings.state_dir / "ledger.db", create=True)
        self.shared = MappingContext(settings.mappings[0], settings)
        self._ahead = 0.0
        troubles, dial = Troubles(self.clock), dialler(settings, self.shared.keys.stream)
        self.forward = carrier_of(self.shared, self.ledger, troubles, self.clock, dial)
        self.mirror = Mirror(self.shared, self.ledger, troubles, self.clock, dial) if dual else None

    def clock(self) -> float:
        """A second goes by from sweep to sweep."""
        return time.time() + self._ahead

    def sweep(self, times: int = 1) -> None:
        for _ in range(times):
            self._ahead += 1.0
            self.forward.look()
            if not self.forward.attached:
                self.forward.attach()
            while self.forward.step() or self.forward.waits:
                pass
            self.forward.flush()
            if self.mirror is not None:
                if not self.mirror.attached:
                    self.mirror.settle(time.sleep)
                    self.mirror.attach()
                while self.mirror.step(0):
                    self.mirror.finish()
                self.mirror.keep()

    def close(self) -> None:
        self.forward.release()
        self.forward.detach()
        if self.mirror is not None:
            self.mirror.close()
        self.shared.close()
        self.ledger.close()
