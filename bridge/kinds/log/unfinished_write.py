"""Finds out how much of an unfinished write (an intent) an earlier mirror process wrote to a log (DESIGN §6.3).

That is all of it, a part, or nothing.
"""

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
"""How often a log's files are searched for an unfinished write, while rotations go on, before `resolve` gives up."""

INTENT_WINDOW = 4 << 20
"""Bytes of a file that are searched at once for lines that an earlier mirror process may have written."""


class Generations(Protocol):
    """The generations of the log to which an earlier mirror process made an unfinished write."""

    def find(self, number: int) -> Generation | None:
        """Returns the log's generation of this number, opened, to search it for an unfinished write.

        None: the generation's file is gone.
        """
        ...

    def after(self, number: int) -> list[Generation]:
        """Returns the log's generations, oldest first, that came after this number and may hold an unfinished write.

        Only those whose files are open.
        """
        ...

    def deleted(self, generation: Generation, start: int, data: bytes) -> bool:
        """Whether the file with an unfinished write was deleted, and no copy of the file holds `data` at `start`."""
        ...


def resolve(intent: Intent, target: Generations, codec: Codec) -> tuple[PendingWrite, str]:
    """Searches a log's files for the lines of an unfinished write (an intent) of an earlier mirror (DESIGN §6.3).

    Returns the write, and in words what was found of it. All lines found: their spans are noted in the write. Found in
    part: the whole lines are noted, the rest is still to be written; a torn line at the end of the file is continued.
    Not found: all is still to be written. The search begins at the file size that the intent noted, and at the
    beginning of every later generation: the file may have been emptied before the write. Raises NotYet: the files are
    rotated faster than they can be searched.
    """
    write = PendingWrite(intent.name, intent.content, intent.entries, intent.id, intent.generation, intent.size)
    many = f"{len(intent.entries)} mirrored line{'s' if len(intent.entries) != 1 else ''}"
    places = _places(intent, target)
    for _ in range(INTENT_LOOKS):
        looked = _files_of(places)
        stand = [(generation, start, _find(generation, start, intent.content)) for generation, start in places]
        places = _places(intent, target)
        if any(at >= 0 for _, _, at in stand) or _files_of(places) == looked:
            break  # else a file was emptied meanwhile: its bytes may stand in a copy that was not searched
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
    """Lists the generations that may hold lines of an unfinished write, each with the offset to search from."""
    noted = target.find(intent.generation)
    places = [(noted, intent.size)] if noted is not None and noted.content is not None else []
    return places + [(newer, 0) for newer in target.after(intent.generation) if newer.content is not None]


def _files_of(places: list[tuple[Generation, int]]) -> list[tuple[int, tuple[int, int]]]:
    """Pairs each generation's number with the device and inode of its file, to notice a rotation during the search."""
    return [(generation.number, generation.identity) for generation, _ in places]


def _in_part(write: PendingWrite, generation: Generation, start: int, codec: Codec) -> str:
    """Searches a generation from `start` on for the first part of an unfinished write, and notes it in the write.

    Returns in words what was found; an empty string: none of the write's bytes.
    """
    content, size = write.content, generation.size()
    at = _find(generation, start, content[: content.index(b"\n") + 1])
    if at < 0:  # the file may end with less than the write's first line
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
    """Searches a generation for a torn part of an unfinished write's first line, directly before another writer's line.

    Such a line of the file is no message, but becomes one without the beginning that it shares with the mirror's line.
    Also finds a first line that another writer's line cut in two. Notes the torn parts in the write, and returns in
    words what was found; an empty string: nothing.
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
    """Returns at which byte another writer's output cut the mirror's unfinished line `ours` in two; 0: at none.

    A line that was cut is found as its first part, at the beginning of `line`, and its second part, `following`.
    """
    cut = len(ours) - len(following)
    return cut if 0 < cut < len(line) and ours[cut:] == following and line.startswith(ours[:cut]) else 0


def _both_parts(begin: int, cut: int, ours: bytes, generation: int, at: int, length: int) -> list[WrittenSpan]:
    """Makes the two torn spans of an unfinished line that another writer's output cut in two at the byte `cut`.

    The mirror's line `ours` is at `begin` of the write's content. `at` is the offset of the file's line of `length`
    bytes that begins with the first part; the second part is the line after it.
    """
    return [
        WrittenSpan(begin, begin + cut, generation, at, torn=True),
        WrittenSpan(begin + cut, begin + len(ours) + 1, generation, at + length + 1, torn=True),
    ]


def _find(generation: Generation, start: int, lines: bytes, *, within: bool = False) -> int:
    """Returns the offset of an unfinished write's `lines` in a generation, from `start` on at a line's start; or -1.

    `within`: also in the middle of a line. Reads a window at a time: much may have been appended since.
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
