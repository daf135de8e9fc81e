"""Packs entries of a stream as JSON, for quarantine and archive, where they cannot be lines of a log. Pure."""

from __future__ import annotations

import json

from bridge.core.model import format_id
from bridge.streams.reader import Entry


def pack_fields(fields: list[bytes]) -> bytes:
    """Returns the fields and values of an entry as a JSON list."""
    return json.dumps([value.decode("utf-8", "surrogateescape") for value in fields]).encode()


def unpack_fields(raw: bytes) -> list[bytes]:
    """Returns the fields and values of an entry from the JSON of `pack_fields`. Raises ValueError: it was cut."""
    return [value.encode("utf-8", "surrogateescape") for value in json.loads(raw)]


def entry_as_json(entry: Entry) -> bytes:
    """Returns an entry, its ID and its fields, as JSON on one line without a newline."""
    return json.dumps({"entry": format_id(entry.id).decode(), "fields": json.loads(pack_fields(entry.fields))}).encode()


def fields_from_json(line: bytes) -> list[bytes]:
    """Returns the fields and values of an entry from the JSON line that `entry_as_json` made."""
    return [value.encode("utf-8", "surrogateescape") for value in json.loads(line)["fields"]]
