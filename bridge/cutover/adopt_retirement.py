"""Adopts the retirement of a mapping whose ledger was lost: copies what Redis says of its end into a new ledger."""

from __future__ import annotations

import json
import time

from bridge.core.model import Checkpoint
from bridge.files.generation_record import GenerationRecord
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.journal import note
from bridge.ledger.retired import retire
from bridge.ledger.sources import SourceMemory, save_generation, save_source, save_stream
from bridge.ledger.store import Ledger
from bridge.streams.connect import Connection
from bridge.streams.retired import Retirement


def adopt(shared: MappingContext, ledger: Ledger, connection: Connection, ending: Retirement, who: str) -> None:
    """Adopts a stream's retirement from Redis into a new ledger: that it is retired, and how far files were carried.

    The stream's other keys of the bridge belong to an owner that is no more, and are removed: what they say is in the
    files and in the stream. Raises LedgerError, RedisLost, RedisRefused.
    """
    stream = shared.mapping.stream.key
    connection.call("DEL", *shared.keys.own)
    with ledger.transaction():
        for name, raw in ending.files.items():
            at = Checkpoint.from_json(raw.encode())
            save_source(ledger, stream, name, SourceMemory(int(json.loads(raw)["number"]), at.to_json(), live=True))
            save_generation(ledger, stream, name, GenerationRecord(at.generation, 0, 0, at.at))
        save_stream(ledger, stream, ending.last, 0)  # later entries are looked at before anything is sent
        retire(ledger, stream, shared.mapping.name, ending.who, ending.at, ending.to_json())
        note(ledger, time.time(), who, "repair", stream, {"adopted": ending.said()})
