"""Makes the JSON of the status of all mappings, as `bridge status --json` prints it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from bridge.core.model import format_id, shown
from bridge.engine.lag import Lag
from bridge.engine.status import Status


def to_json(status: Status, headline: str, level: str) -> dict[str, Any]:
    """Makes the JSON object of a status that `bridge status --json` prints, with its headline and level."""
    return {
        "headline": headline,
        "level": level,
        "at": status.at,
        "redis": {"url": status.redis, "reachable": not status.redis_error, "error": status.redis_error or None},
        "running": status.running,
        "lock": status.holder or None,
        "heartbeat": status.heartbeat,
        "ledger_error": status.ledger_error or None,
        "troubles": {name: {"error": mapping.error, "hint": mapping.hint, "since": mapping.since}
                     for name, mapping in status.troubles.items()},
        "earlier": {name: {"error": mapping.error, "since": mapping.since, "over": mapping.over}
                    for name, mapping in status.earlier.items()},
        "mappings": [
            {
                "mapping": mapping.name,
                "stream": mapping.stream,
                **({"family": mapping.family} if mapping.family != mapping.name else {}),
                "retired": mapping.retired,
                "outboxes": mapping.outboxes,
                "dead": {name: {"messages": d.messages, "bytes": d.bytes, "more": d.more, "unfinished": d.unfinished}
                         for name, d in mapping.dead.items()},
                "owner": mapping.owner or None,
                "error": mapping.error or None,
                "forward": [
                    {"source": s.name, "generation": s.position.generation if s.position else None,
                     "offset": s.position.offset if s.position else None, **_behind_json(s.behind), "rate": s.rate,
                     "error": s.error or None}
                    for s in mapping.sources
                ],
                "mirror": None if mapping.mirror is None else {
                    "target": mapping.mirror.target, "entry": format_id(mapping.mirror.cursor).decode(),
                    "behind_entries": mapping.mirror.behind.messages if mapping.mirror.behind else None,
                    "more": mapping.mirror.behind.more if mapping.mirror.behind else None,
                    "oldest": mapping.mirror.behind.oldest if mapping.mirror.behind else None,
                    "rate": mapping.mirror.rate, "error": mapping.mirror.error or None,
                },
                "size": None if mapping.size is None else {
                    "entries": mapping.size.entries, "bytes": mapping.size.bytes,
                    "groups": [{"group": shown(g.name), "lag": g.lag, "pending": g.pending, "consumers": g.consumers}
                               for g in mapping.size.groups or ()],
                },
                "import": mapping.imported,
                "parity": None if mapping.parity is None else mapping.parity.in_short(status.at),
                "retention": mapping.retention,
                "account": None if mapping.account is None else mapping.account.to_json(),
                **({"edits": [asdict(edit) for edit in mapping.edits]} if mapping.edits else {}),
                "quarantined": [{"direction": d, "reason": r, "count": n} for d, r, n in mapping.quarantined],
            }
            for mapping in status.mappings
        ],
    }  # fmt: skip


def _behind_json(behind: Lag) -> dict[str, Any]:
    return {
        "behind_bytes": behind.bytes, "behind_lines": behind.messages, "more": behind.more, "oldest": behind.oldest,
        "unfinished_bytes": behind.unfinished,
    }  # fmt: skip
