"""Validates the values of the bridge's keys as they are read from Redis: anybody may write into them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from bridge.core.errors import RedisRefused
from bridge.core.model import Checkpoint, parse_id, shown

T = TypeVar("T")
WRONG = (ValueError, KeyError, TypeError, AttributeError, IndexError)
"""The exceptions that parsing raises for a value in Redis that is not valid."""


def junk(key: bytes, field: bytes | None, raw: bytes) -> RedisRefused:
    """Makes the error for a value in the bridge's keys that the bridge never wrote, with key and field named."""
    where = shown(key) + (f" field {shown(field)}" if field is not None else "")
    verb = f"HDEL {shown(key)} {shown(field)}" if field is not None else f"DEL {shown(key)}"
    hint = f"`{verb}` removes it: what it said is found again by comparing stream and files"
    return RedisRefused(f"holds what the bridge never wrote: {shown(raw, 60)}", code="JUNK", where=where, hint=hint)


def checked(key: bytes, found: Mapping[bytes, bytes], parse: Callable[[bytes], object]) -> None:
    """Raises RedisRefused, with key and field named, for the first field of a Redis hash that `parse` does not take."""
    for field, raw in found.items():
        try:
            parse(raw)
        except WRONG:
            raise junk(key, field, raw) from None


def parsed(key: bytes, raw: bytes, parse: Callable[[], T]) -> T:
    """Returns what `parse` makes of the value of a Redis string. Raises RedisRefused where the value is not valid."""
    try:
        return parse()
    except WRONG:
        raise junk(key, None, raw) from None


def a_checkpoint(raw: bytes) -> object:
    """Validates a field of the Redis hash `bridge:{S}:checkpoint`, which may be a folder's, by parsing it.

    Raises one of `WRONG` for a value that is no checkpoint.
    """
    return Checkpoint.from_json(raw)


def a_generation(raw: bytes) -> object:
    """Validates a field of the Redis hash `bridge:{S}:generations`: size and fingerprint of a closed generation.

    Raises one of `WRONG` for a value that is none.
    """
    facts = json.loads(raw)
    return int(facts["size"]), int(facts["head_len"]), str(facts["head"]), str(facts["tail"])


def a_target(raw: bytes) -> object:
    """Validates a field of the Redis hash `bridge:{S}:mirror`: last entry mirrored into a file, generation and end.

    Raises one of `WRONG` for a value that is none.
    """
    facts: dict[str, Any] = json.loads(raw)
    return parse_id(facts["id"].encode()), int(facts["generation"]), int(facts["end"])
