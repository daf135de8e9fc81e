"""What the bridge keeps in Redis, checked as it is read: anybody may write into its keys."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from bridge.errors import RedisRefused
from bridge.model import Checkpoint, parse_id, shown

T = TypeVar("T")
WRONG = (ValueError, KeyError, TypeError, AttributeError, IndexError)
"""What parsing raises of what is not as it should be."""


def junk(key: bytes, field: bytes | None, raw: bytes) -> RedisRefused:
    """The error for a value that the bridge never wrote, with its key and field named."""
    where = shown(key) + (f" field {shown(field)}" if field is not None else "")
    verb = f"HDEL {shown(key)} {shown(field)}" if field is not None else f"DEL {shown(key)}"
    hint = f"`{verb}` removes it: what it said is found again by comparing stream and files"
    return RedisRefused(f"holds what the bridge never wrote: {shown(raw, 60)}", code="JUNK", where=where, hint=hint)


def checked(key: bytes, found: Mapping[bytes, bytes], parse: Callable[[bytes], object]) -> None:
    """Raises RedisRefused for the first field of a hash that `parse` does not take."""
    for field, raw in found.items():
        try:
            parse(raw)
        except WRONG:
            raise junk(key, field, raw) from None


def parsed(key: bytes, raw: bytes, parse: Callable[[], T]) -> T:
    """What `parse` makes of a string's value. Raises RedisRefused where it makes nothing of it."""
    try:
        return parse()
    except WRONG:
        raise junk(key, None, raw) from None


def a_checkpoint(raw: bytes) -> object:
    """As a field of `checkpoint`, which may be a folder's."""
    return Checkpoint.from_json(raw)


def a_generation(raw: bytes) -> object:
    """As a field of `generations`."""
    facts = json.loads(raw)
    return int(facts["size"]), int(facts["head_len"]), str(facts["head"]), str(facts["tail"])


def a_target(raw: bytes) -> object:
    """As a field of `mirror`."""
    facts: dict[str, Any] = json.loads(raw)
    return parse_id(facts["id"].encode()), int(facts["generation"]), int(facts["end"])
