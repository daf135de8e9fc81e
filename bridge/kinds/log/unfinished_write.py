"""What an earlier process of the mirror wrote of an intent: all of it, a part, or nothing (DESIGN §6.3)."""

from __future__ import annotations

from itertools import zip_longest
from typing import Protocol

from bridge.core.codecs import Codec
from bridge.core.errors import NotYet
from bridge.files.generation import Generation
from bridge.kinds.target import PendingWrite, WrittenSpan
from bridge.ledger.ranges import Intent

PARTED = " and were followed by another writer's; they are written whole"

INTENT_LOOKS = 20
"""How often the files are looked through for what an earlier process wrote, while they are rotated."""

INTENT_WINDOW = 4 << 20
"""Bytes of a file that the mirror searches at once for lines an earlier process may have written."""


class Generations(Protocol):
    """The generations of the file that an earlier process of the mirror wrote an intent to."""

    def find(self, number: int) -> Generation | None:
        """Returns the generation of this number, opened; None: its file is gone."""
        ...

    def after(self, number: int) -> list[Generation]:
        """Returns the open generations that came after the one of this number, oldest first."""
        ...

    def deleted(self, generation: Generation, start: int, data: bytes) -> bool:
        """Whether a generation lost its name, and no copy of its file holds these bytes at `start`."""
        ...


def resolve(intent: Intent, target: Generations, codec: Codec) -> tuple[PendingWrite, str]:
    """Finds out what an earlier process of the mirror wrote of an intent to its file (DESIGN §6.3).

    Returns the write, and what became of it in words. Found: its pieces are noted. Found in part: the whole lines are
    noted, the rest is still to be written; a torn line at the end of the file is continued. Not found: all is still to
    be written. The lines are looked for behind the size the intent noted, and from the beginning in every generation
    since: the file may have been emptied before the write.
    """
    write = PendingWrite(intent.name, intent.content, intent.entries, intent.id, intent.generation, intent.size)
    many = f"{len(intent.entries)} mirrored line{'s' if len(intent.entries) != 1 else ''}"
    places = _places(intent, target)
    for _ in range(INTENT_LOOKS):
        looked = _files_of(places)
        stand = [(generation, start, _find(generation, start, intent.content)) for generation, start in places]
        places = _places(intent, target)
        if any(at >= 0 for _, _, at in stand) or _files_of(places) == looked:
            break  # else a file was emptied, and what stood in it may stand in a copy, where it was not looked for
    else:
        raise NotYet("its files are rotated faster than they can be looked through")
    for generation, _, at in stand:
        if at >= 0:
            write.pieces = [WrittenSpan(0, len(intent.content), generation.number, at)]
            if target.deleted(generation, at, intent.content):
                write.pieces[0].torn = True
                return write, f"{many} had been written to a file that was deleted; they are written again"
            return write, f"{many} had been written before the last stop"
    for generation, start in places:
        said = _in_part(write, generation, start, codec) or _torn(write, generation, start, codec)
        if said:
            return write, f"{many} had been written in part{said}"
    if not any(generation.number == intent.generation for generation, _ in places):
        return write, f"the file that {many} were to be written to is gone; written to its successor"
    if any(_find(generation, start, intent.content, within=True) >= 0 for generation, start in places):
        return write, f"{many} stand only within a line of another program's: taken as not written before the last stop"
    return write, f"{many} had not been written before the last stop"


def _places(intent: Intent, target: Generations) -> list[tuple[Generation, int]]:
    """Looks for the generations in which lines of an intent may stand, each with the offset from which on."""
    noted = target.find(intent.generation)
    places = [(noted, intent.size)] if noted is not None and noted.content is not None else []
    return places + [(newer, 0) for newer in target.after(intent.generation) if newer.content is not None]


def _files_of(places: list[tuple[Generation, int]]) -> list[tuple[int, tuple[int, int]]]:
    """The number of each generation, and the device and inode of the file in which it is now."""
    return [(generation.number, generation.identity) for generation, _ in places]


def _in_part(write: PendingWrite, generation: Generation, start: int, codec: Codec) -> str:
    """Notes in an earlier process's write which of its bytes stand in a generation of the file from `start` on.

    Returns that in words; empty when none of them do.
    """
    content, size = write.content, generation.size()
    at = _find(generation, start, content[: content.index(b"\n") + 1])
    if at < 0:  # or less than its first line, at the file's end
        begin = max(start, size - len(content))
        end = generation.read(max(0, size - begin), begin)
        last_line = end.rfind(b"\n") + 1
        if last_line == len(end) or (last_line == 0 and begin > start) or not content.startswith(end[last_line:]):
            return ""
        at = begin + last_line
    there = generation.read(len(content), at)
    common = next((i for i, (a, b) in enumerate(zip(content, there, strict=False)) if a != b), len(there))
    whole = content.rfind(b"\n", 0, common) + 1
    followed = at + common < size
    next_line, *others = generation.read(INTENT_WINDOW, at + whole).split(b"\n", 2)
    ours = content[whole:].partition(b"\n")[0]
    if len(others) == 2 and (cut := _parted(ours, next_line, others[0])):
        write.pieces = [WrittenSpan(0, whole, generation.number, at)] if whole else []
        write.pieces += _both_parts(whole, cut, ours, generation.number, at + whole, len(next_line))
        return PARTED
    if followed and codec.decode((next_line,)).rows[0].__class__ is tuple:
        common = whole  # what follows our whole lines is another writer's whole line that begins alike
    if common:
        write.pieces = [WrittenSpan(0, common, generation.number, at)]
    if not followed:
        return "; the rest is appended"
    if common > whole:
        write.tear()
    return " and were followed by another writer's; the rest is written whole"


def _torn(write: PendingWrite, generation: Generation, start: int, codec: Codec) -> str:
    """Notes in an earlier process's write that a part of its first line stands before another writer's whole line.

    That is a line which is no message, and which is one without the beginning that it shares with ours. Returns that
    in words; empty where there is none.
    """
    ours, at = write.content.partition(b"\n")[0], start
    lines = generation.read(INTENT_WINDOW, start).split(b"\n")[:-1]
    for line, following in zip_longest(lines, lines[1:]):
        if following is not None and (cut := _parted(ours, line, following)):
            write.pieces = _both_parts(0, cut, ours, generation.number, at, len(line))
            return PARTED
        shared = next(
            (i for i, (a, b) in enumerate(zip(ours, line, strict=False)) if a != b), min(len(ours), len(line))
        )
        if shared and codec.decode((line,)).rows[0].__class__ is not tuple:
            for cut in range(shared, 0, -1):
                if codec.decode((line[cut:],)).rows[0].__class__ is tuple:
                    write.pieces = [WrittenSpan(0, cut, generation.number, at)]
                    write.tear()
                    return PARTED
        at += len(line) + 1
    return ""


def _parted(ours: bytes, line: bytes, following: bytes) -> int:
    """Where our line was cut in two, if another writer's came in its middle: `line` then begins with its beginning.

    `following` is its end. 0: it was not cut so.
    """
    cut = len(ours) - len(following)
    return cut if 0 < cut < len(line) and ours[cut:] == following and line.startswith(ours[:cut]) else 0


def _both_parts(begin: int, cut: int, ours: bytes, generation: int, at: int, length: int) -> list[WrittenSpan]:
    """Makes the torn pieces of our line, which is at `begin` of a write's content and was cut in two at `cut`.

    `at` is where a line of `length` bytes stands that begins with our beginning; our end is the line behind it.
    """
    return [
        WrittenSpan(begin, begin + cut, generation, at, torn=True),
        WrittenSpan(begin + cut, begin + len(ours) + 1, generation, at + length + 1, torn=True),
    ]


def _find(generation: Generation, start: int, lines: bytes, *, within: bool = False) -> int:
    """Returns where the mirror's `lines` stand in a generation from `start` on, at the beginning of a line; or -1.

    `within`: in the middle of a line as well. Reads a window at a time: much may have been appended since.
    """
    at, before = start, b"\n"
    while data := generation.read(INTENT_WINDOW + len(lines), at):
        found = (before + data).find(lines if within else b"\n" + lines)
        if found >= 0:
            return at + found - within
        if len(data) < INTENT_WINDOW + len(lines):
            break
        before = data[INTENT_WINDOW - 1 : INTENT_WINDOW]
        at += INTENT_WINDOW
    return -1
