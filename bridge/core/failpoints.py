"""Failpoints: named points in the code at which tests make the process crash or a call fail.

`BRIDGE_CRASH_AT=mirror.write.after:3` kills this process with SIGKILL when that point is reached for the third time.
`mirror.write.after:raise:3` raises an OSError there instead, once, and the process goes on; `raise=ENOSPC` says which.
Several, with commas between them, are armed at once. Without the variable a failpoint costs one comparison with None.
The names are in FAILPOINTS; each comes with `.before` and `.after`.
"""

from __future__ import annotations

import errno
import os
import signal
from dataclasses import dataclass

FAILPOINTS = {
    "forward.read": "a piece of a file",
    "forward.send": "a batch on the wire",
    "forward.reply": "the server's answer to a batch",
    "forward.record": "what of an edited log was carried before, in Redis",
    "forward.align": "the ledger's word of which lines of an edited log were carried before",
    "forward.checkpoint": "the ledger's copy of what Redis confirmed",
    "streams.name": "the names of new streams in the ledger, of a mapping with many",
    "mirror.read": "entries from the stream",
    "mirror.intent": "the intent in the ledger",
    "mirror.write": "the lines in the file",
    "mirror.hidden": "a new file under a hidden name",
    "mirror.range": "the range and the cursor in the ledger",
    "mirror.checkpoint": "the mirrored ID in Redis",
    "spool.due": "files of a folder that are to be sent, in the ledger",
    "spool.batch": "the batch they are sent in, in the ledger",
    "spool.landed": "the ledger's word that a batch is in the stream",
    "state.send": "a value on its way to its hash",
    "state.write": "a value's file",
    "state.note": "the ledger's word that both sides hold a value",
    "retry.send": "a line from quarantine on the wire",
    "retry.mark": "the ledger's word that a message left quarantine",
    "switch.begin": "a switch announced to its component",
    "switch.pause": "the component at rest, both directions past it",
    "switch.asked": "those who carry at rest, where they are asked to change what they do",
    "switch.journal": "the journal's word that a switch is decided",
    "switch.flip": "the switch itself, in Redis",
    "switch.done": "the journal's word that a switch is done",
    "trim.part": "some of what is to go, in a file of the archive",
    "trim.archive": "the archive's index, of entries that are to go",
    "trim.floor": "the floor in Redis, below which a stream is trimmed",
    "trim.step": "the removal of some entries below the floor",
    "retire.keep": "the stream as files, beside the place where they will lie",
    "retire.note": "the ledger's word that a mapping is retired",
    "retire.place": "the stream as files, in place",
    "retire.tell": "the word in Redis that a mapping is retired",
    "purge.keys": "the removal of our own keys of a retired mapping",
    "purge.marks": "the removal of what the state directory keeps of its components",
    "unretire.note": "the ledger's word that a mapping begins again",
    "unretire.tell": "the removal of the word in Redis that it is retired",
    "move.copy": "a copy of a key on the server that all moves to",
    "move.name": "the copies under their names, all at once",
    "move.config": "the new url in bridge.toml",
    "move.stop": "the end of the embedded server",
    "group.copy": "a mapping's rows in the ledger of the group that it moves to",
    "group.owner": "the new ledger as the owner of a stream, in Redis",
    "group.forget": "the end of a mapping's rows in the ledger of the group that it leaves",
    "redact.delete": "the deletion of entries on purpose",
    "repair.restore": "a piece of a file's end that is put back",
    "repair.note": "the journal's word of a repair",
    "repair.late": "the ledger's word of the files that a repair brings over late",
}


@dataclass(slots=True)
class ArmedFailpoint:
    """An armed failpoint: its `left`-th pass from now kills the process, or raises an OSError of `errno` (0: kills)."""

    left: int
    errno: int


_armed: dict[str, ArmedFailpoint] | None = None


def arm(setting: str | None) -> None:
    """Arms the failpoints of a setting and disarms all others.

    The setting is `NAME.before[:kill|:raise[=ERRNO]][:N]` or `NAME.after…`, several with commas between them. Raises
    ValueError for a point, an action or an errno that is not known.
    """
    global _armed
    armed = dict(_parsed(part.strip()) for part in (setting or "").split(",") if part.strip())
    _armed = armed or None


def _parsed(setting: str) -> tuple[str, ArmedFailpoint]:
    point, *rest = setting.split(":")
    name, _, when = point.rpartition(".")
    if name not in FAILPOINTS or when not in ("before", "after"):
        raise ValueError(f"unknown point {point!r}, known: {', '.join(FAILPOINTS)}, each with .before or .after")
    action = rest.pop(0) if rest and not rest[0].isdigit() else "kill"
    verb, _, named = action.partition("=")
    code = getattr(errno, named or "EIO", 0) if verb == "raise" else 0
    if verb not in ("kill", "raise") or (verb == "raise") != bool(code) or (verb == "kill" and named):
        raise ValueError(f"unknown action {action!r} at {point}, known: kill, raise, raise=ENOSPC and other errnos")
    if len(rest) > 1 or not all(part.isdigit() and int(part) for part in rest):
        raise ValueError(f"{setting!r} is no point: NAME.before[:kill|:raise[=ERRNO]][:N], N from 1 on")
    return point, ArmedFailpoint(int(rest[0]) if rest else 1, code)


def failpoint(point: str) -> None:
    """Kills the process, or raises OSError once, if the failpoint of this name is armed and was passed often enough."""
    if _armed is None or point not in _armed:
        return
    armed = _armed[point]
    armed.left -= 1
    if armed.left > 0:
        return
    if not armed.errno:
        os.kill(os.getpid(), signal.SIGKILL)
    del _armed[point]  # the process goes on and may pass here again
    raise OSError(armed.errno, f"{os.strerror(armed.errno)} (raised at {point})")
