"""The named points at which a crash is tested.

`BRIDGE_CRASH_AT=mirror.write.after:3` kills this process with SIGKILL when that point is reached for the third time.
Without the variable a point is one comparison with None. The names are in POINTS; each comes with `.before` and
`.after`.
"""

from __future__ import annotations

import os
import signal

POINTS = {
    "forward.read": "a piece of a file",
    "forward.send": "a batch on the wire",
    "forward.reply": "the server's answer to a batch",
    "forward.checkpoint": "the ledger's copy of what Redis confirmed",
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
    "repair.restore": "a piece of a file's end that is put back",
    "repair.note": "the journal's word of a repair",
}

_armed: str | None = None
_left = 0


def arm(setting: str | None) -> None:
    """Takes `NAME.before[:N]` or `NAME.after[:N]`; None disarms. Raises ValueError for a point that is not known."""
    global _armed, _left
    if not setting:
        _armed = None
        return
    point, _, count = setting.partition(":")
    name, _, when = point.rpartition(".")
    if name not in POINTS or when not in ("before", "after"):
        raise ValueError(f"unknown point {point!r}, known: {', '.join(POINTS)}, each with .before or .after")
    _armed, _left = point, int(count or 1)


def reached(point: str) -> None:
    """Kills the process if this point is armed and its time has come."""
    global _left
    if _armed is None or point != _armed:
        return
    _left -= 1
    if _left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
