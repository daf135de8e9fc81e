"""A mapping with many streams as the process of `bridge run` has it: one thread for each direction, for all streams."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

from bridge.core.config import Settings
from bridge.core.mapping import Mapping
from bridge.engine.stream_forward import StreamForward
from bridge.engine.stream_mirror import StreamMirror
from bridge.engine.stream_sessions import StreamSessions
from bridge.kinds.direction_stats import DirectionStats
from bridge.ledger.parity_runs import proof_of_many, proofs_stand
from bridge.ledger.store import Ledger
from bridge.ledger.troubles import Troubles


class ManyStreams:
    """Both directions of one mapping with many streams."""

    def __init__(
        self, mapping: Mapping, settings: Settings, troubles: Troubles, stop: Event, sweep: float, *, dual: bool
    ) -> None:
        self._name, self._key = mapping.name, mapping.stream.key
        self._proof: tuple[tuple[Any, ...], dict[str, Any] | None] = ((), None)
        self._sessions = StreamSessions(mapping, settings, troubles)
        self.forward = StreamForward(self._sessions, settings, troubles, stop, sweep)
        mirror = StreamMirror(self._sessions, self.forward, settings, troubles, stop, dual=dual)
        self._mirror = mirror if mapping.mirror is not None else None
        self._dual = dual

    def works(self) -> list[tuple[str, Callable[[Ledger], None]]]:
        """Lists what the directions' threads run, each with its own ledger, by the name of the thread."""
        mirrors = [(self._mirror.worker, self._mirror.run)] if self._mirror is not None else []
        return [(self.forward.worker, self.forward.run), *mirrors]

    def proof(self, ledger: Ledger) -> dict[str, dict[str, Any]]:
        """Returns for the heartbeat, by the mapping's name, what parity proved of all its streams; none: nothing."""
        stands = proofs_stand(ledger)
        if stands != self._proof[0]:
            self._proof = stands, proof_of_many(ledger, self._name)
        found = self._proof[1]
        return {self._name: found | {"stream": self._key}} if found is not None else {}

    def workers(self) -> list[StreamForward | StreamMirror]:
        """Lists the directions that carry messages."""
        return [self.forward, self._mirror] if self._mirror is not None and self._dual else [self.forward]

    def wake(self, path: str = "") -> None:
        """Wakes forward's thread, as something happened to the file at this path, or just so."""
        self._sessions.wake(path)

    def end(self) -> None:
        """Ends what both threads wait for, from another thread, after the stop event."""
        self._sessions.wake()
        if self._mirror is not None:
            self._mirror.interrupt()

    def folders(self) -> set[Path]:
        """Lists the folders of the mapping's logs, to be watched for changes."""
        return self.forward.folders()

    def counts(self) -> dict[str, int]:
        """Returns how many entries forward made of each log that is attended to, by the log's name in `troubles`."""
        return self._sessions.counts()

    def flows(self) -> dict[tuple[str, str], DirectionStats]:
        """Returns the statistics of the directions that carry, of all streams together, as `Process.flows`."""
        found = {(self._name, "forward"): self._sessions.measure()}
        if self._mirror is not None and self._dual:
            found[self._name, "mirror"] = self._sessions.mirror
        return found
