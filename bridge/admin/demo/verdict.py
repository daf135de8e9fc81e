"""The demo's verdict: compares the raw file and the raw stream with what the programs say they wrote. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verdict:
    """Holds the demo's verdict: how many messages each program wrote, how many each side holds, and what is wrong."""

    written: dict[str, int]
    lines: int
    entries: int
    wrong: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether the demo's two sides hold every message once, and each program's messages in the order of writing."""
        return not self.wrong


def judge(file: bytes, entries: list[list[bytes]], written: dict[str, int], file_born: set[str]) -> Verdict:
    """Judges the demo: compares file and stream with what the programs say they wrote.

    Each program's messages must stand on both sides once, in the program's order; file-born messages of all programs
    must stand in the stream in the file's order. `entries`: the stream's fields and values as they are.
    """
    lines = [line.split(b"|", 3) for line in file.split(b"\n") if line]
    there = [(row[0].decode(errors="replace"), row[3]) for row in lines]
    held = [dict(zip(entry[0::2], entry[1::2], strict=True)) for entry in entries]
    here = [(row[b"role"].decode(errors="replace"), row[b"data"]) for row in held]
    wrong = []
    for role, count in written.items():
        wanted = list(range(1, count + 1))
        for side, found in (("file", there), ("stream", here)):
            numbers = [_number(data) for who, data in found if who == role]
            if numbers != wanted:
                wrong.append(f"{role} in the {side}: {_difference(numbers, wanted)}")
    if [pair for pair in there if pair[0] in file_born] != [pair for pair in here if pair[0] in file_born]:
        wrong.append("the stream does not hold the file's messages in the file's order")
    strangers = {who for who, _ in (*there, *here)} - set(written)
    if strangers:
        wrong.append(f"messages of nobody: {', '.join(sorted(strangers))}")
    return Verdict(written, len(lines), len(entries), tuple(wrong))


def _number(data: bytes) -> int:
    try:
        return int(json.loads(data)["n"])
    except (ValueError, KeyError, TypeError):
        return -1


def _difference(numbers: list[int], wanted: list[int]) -> str:
    missing, twice = len(set(wanted) - set(numbers)), len(numbers) - len(set(numbers))
    if missing or twice:
        return f"{missing} missing, {twice} twice"
    return "out of order"
