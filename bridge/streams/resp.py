"""Packs RESP2 requests by hand: a batch of XADDs is one `%` an entry and one join."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

from bridge.core.model import ORIGIN_FIELD


def pack(*args: bytes | str | int) -> bytes:
    """Packs one Redis command as a RESP2 request."""
    parts = [b"*%d\r\n" % len(args)]
    for arg in args:
        raw = arg if isinstance(arg, bytes) else str(arg).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(parts)


def _bulk(raw: bytes) -> bytes:
    return (b"$%d\r\n%b\r\n" % (len(raw), raw)).replace(b"%", b"%%")


Places = Sequence[int] | Sequence[bytes]
Packer = Callable[[Sequence[Sequence[bytes]], Sequence[int] | None, bytes | None, Places, bool], bytes]
"""A function that packs a batch of entries as XADDs in RESP2.

(rows, milliseconds for explicit IDs or None for `*`, the origins' prefix, their offsets, whether the stream exists) →
packed XADDs. Without a prefix whole origins stand for the offsets. Into a stream that exists `*` goes with NOMKSTREAM:
a deleted one must not begin in its middle.
"""


def entry_packer(stream: bytes, fields: tuple[bytes, ...]) -> Packer:
    """Makes a function that packs entries of these fields, `origin` last, as XADDs in RESP2.

    What is the same in a whole batch is folded into one template, the lengths of IDs and origins too, so that an entry
    costs one formatting.
    """
    slot = b"$%d\r\n%b\r\n"
    make = b"*%d\r\n" % (3 + 2 * (len(fields) + 1)) + _bulk(b"XADD") + _bulk(stream)
    add = b"*%d\r\n" % (4 + 2 * (len(fields) + 1)) + _bulk(b"XADD") + _bulk(stream) + _bulk(b"NOMKSTREAM")
    body = b"".join(_bulk(field) + slot for field in fields) + _bulk(ORIGIN_FIELD)

    def pack_entries(
        rows: Sequence[Sequence[bytes]],
        ids: Sequence[int] | None,
        prefix: bytes | None,
        places: Places,
        exists: bool,
    ) -> bytes:
        at, packed = 0, []
        head = add if exists and ids is None else make
        while at < len(rows):
            end = min(len(rows), _same_width(places, at), len(rows) if ids is None else _same_width(ids, at))
            identity = _bulk(b"*") if ids is None else b"$%d\r\n%%d-*\r\n" % (len(b"%d" % ids[at]) + 2)
            place, written = places[at], b"%b" if prefix is None else prefix.replace(b"%", b"%%") + b"%d"
            width = len(place) if isinstance(place, bytes) else len(prefix or b"") + len(b"%d" % place)
            template = head + identity + body + b"$%d\r\n" % width + written + b"\r\n"
            part, spots = rows[at:end], places[at:end]
            if len(fields) != 4:
                packed += [
                    template % (*(() if ids is None else (ids[i],)), *(x for v in row for x in (len(v), v)), o)
                    for i, (row, o) in enumerate(zip(part, spots, strict=True), at)
                ]
            elif ids is None:
                packed += [
                    template % (len(a), a, len(b), b, len(c), c, len(d), d, o)
                    for (a, b, c, d), o in zip(part, spots, strict=True)
                ]
            else:
                packed += [
                    template % (i, len(a), a, len(b), b, len(c), c, len(d), d, o)
                    for (a, b, c, d), o, i in zip(part, spots, ids[at:end], strict=True)
                ]
            at = end
        return b"".join(packed)

    return pack_entries


def _same_width(values: Places, at: int) -> int:
    """Finds the end of the run, from `at`, of numbers with as many digits as the first, or of texts as long.

    The numbers ascend.
    """
    first = values[at]
    if isinstance(first, bytes):
        width = len(first)
        return next((i for i in range(at + 1, len(values)) if len(values[i]) != width), len(values))  # type: ignore[arg-type]
    limit = 10 ** len(b"%d" % first)
    return len(values) if values[-1] < limit else bisect_left(values, limit, at)
