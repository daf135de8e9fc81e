"""Finds that a bridge was given another name, though its streams are named after it, before another stream is begun."""

from __future__ import annotations

import re

from bridge.core.config import Settings
from bridge.core.errors import Unfit
from bridge.core.mapping_sections import INSTANCE
from bridge.ledger.retired import retired
from bridge.ledger.store import Ledger
from bridge.ledger.stream_names import keys_with_names


def check_instance(ledger: Ledger, settings: Settings) -> None:
    """Raises Unfit where a ledger has carried a stream of a mapping under another name of the bridge.

    That is a mapping with `{instance}` in its `stream.key`. What waits in the earlier stream would never be mirrored,
    and all of the files would be sent to the new one.
    """
    over = retired(ledger)
    known = {str(row[0]) for row in ledger.rows("SELECT stream FROM streams")} - {*over}
    for mapping in settings.mappings:
        written = settings.written_keys.get(mapping.name, mapping.stream.key)
        if mapping.many_streams or mapping.log:  # the names of all are fixed under this key, which has {name} in it
            _check_names(ledger, settings, mapping.family)
            continue
        if INSTANCE not in written or mapping.stream.key in known:
            continue
        first, *rest = map(re.escape, written.split(INSTANCE))
        earlier = re.compile(first + r"([A-Za-z0-9_.-]+)" + r"\1".join(rest))
        for stream in known - {other.stream.key for other in settings.mappings}:
            if (found := earlier.fullmatch(stream)) is not None:
                raise Unfit(
                    f"this bridge has carried {stream}, as '{found[1]}': as '{settings.instance}' it would begin"
                    f" another stream, {mapping.stream.key}",
                    where=str(settings.path),
                    hint=f'instance = "{found[1]}", as before; or `bridge retire {mapping.name}`, under that name',
                )


def _check_names(ledger: Ledger, settings: Settings, family: str) -> None:
    """Raises Unfit where the streams of a mapping with many were named under another name of the bridge."""
    written = settings.written_keys.get(family, "")
    if INSTANCE not in written:
        return
    key = written.replace(INSTANCE, settings.instance)
    first, *rest = map(re.escape, written.split(INSTANCE))
    earlier = re.compile(first + r"([A-Za-z0-9_.-]+)" + r"\1".join(rest))
    named = keys_with_names(ledger)
    found = next((match for other in named - {key} if (match := earlier.fullmatch(other)) is not None), None)
    if found is not None and key not in named:
        raise Unfit(
            f"this bridge has carried streams of {found[0]}, as '{found[1]}': as '{settings.instance}' it would begin"
            " others",
            where=str(settings.path),
            hint=f'instance = "{found[1]}", as before; or `bridge retire {family}`, under that name',
        )
