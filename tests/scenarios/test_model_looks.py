"""Random programs of file events under a bridge that looks only now and then, and sleeps; against a model.

Between two looks anything may happen, several times: filled, copied, emptied, filled again, renamed, packed, and
written to by a program that kept its descriptor.
"""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import example, given

from tests.files.test_rotation import copytruncate, rotate
from tests.kinds.test_mirror_target import Both
from tests.scenarios.test_model import acts, killed, press, programs, shared_rig
from tests.support.rig import Rig, line


class Program:
    """What must be in the stream: `sent` in order, `late` anywhere behind; `added` in the file."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.sent: list[bytes] = []
        self.late: list[bytes] = []
        self.added: list[bytes] = []
        self._both: Both | None = None

    @property
    def both(self) -> Both:
        if self._both is None:
            self._both = Both(self.rig)
            self._both.mirror.settle(lambda seconds: None)  # what was begun before a kill comes first, as in `run`
        return self._both

    def sleep(self) -> None:
        if self._both is not None:
            self._both.close()
        self._both = None

    def look(self) -> None:
        self.both.go_forward()
        self.both.go_back()
        self.both.go_forward()

    def play(self, act: str, n: int) -> None:
        rig = self.rig
        if act == "write":
            fresh = [f"f-{len(self.sent) + i}".encode() for i in range(n)]
            rig.append(*fresh)
            self.sent += fresh
        elif act == "late":
            pieces = [path for path in rig.pieces() if path.suffix[1:].isdigit() and path.stat().st_size]
            if pieces:
                data = f"late-{len(self.late)}".encode()
                with pieces[n % len(pieces)].open("ab") as file:
                    file.write(line(data))
                self.late.append(data)
        elif act == "add":
            for _ in range(n):
                data = f"r-{len(self.added)}".encode()
                rig.add(data)
                self.added.append(data)
        elif act == "glance":
            self.both.forward.look()
        elif act == "look":
            self.look()
        elif act == "sleep":
            self.sleep()
        elif act == "kill":
            self.sleep()
            killed(rig, n)
        elif act == "press":
            press(rig, n, packed=False)
        elif act == "touch":
            rig.log.touch()
        elif rig.log.exists():
            (rotate if act == "rotate" else copytruncate)(rig)


def run_program(rig: Rig, played: list[tuple[str, int]]) -> None:
    """Plays it, looks twice at the end, and compares both sides with the model."""
    program = Program(rig)
    try:
        for act, n in played:
            program.play(act, n)
        program.look()
        program.look()
    finally:
        program.sleep()
    datas = rig.datas()
    doubled = [data for data, n in Counter(datas).items() if n > 1]
    assert not doubled
    assert [data for data in datas if data.startswith(b"f-")] == program.sent
    assert sorted(data for data in datas if data.startswith(b"late-")) == sorted(program.late)
    assert [data for data in datas if data.startswith(b"r-")] == program.added
    lines = [raw.split(b"|", 3)[3] for raw in rig.lines()]
    assert sorted(lines) == sorted(datas)
    assert rig.parity().verdict != "differs"
    program = Program(rig)
    try:
        program.look()
    finally:
        program.sleep()
    assert rig.datas() == datas


@programs(100)
@given(acts(
    16, write=(1, 9), copytruncate=(0, 0), rotate=(0, 0), touch=(0, 0), late=(0, 9), add=(1, 3), glance=(0, 0),
    look=(0, 0), sleep=(0, 0), press=(0, 100), kill=(0, 10_000),
))  # fmt: skip
@example([("touch", 0), ("look", 0), ("write", 8), ("copytruncate", 0), ("write", 3)])
@example([("write", 1), ("look", 0), ("copytruncate", 0), ("look", 0), ("write", 8), ("copytruncate", 0), ("write", 3)])
@example(
    [("touch", 0), ("look", 0), ("write", 2), ("copytruncate", 0), ("write", 3), ("copytruncate", 0), ("write", 4)]
)
@example([("touch", 0), ("look", 0), ("sleep", 0), ("write", 2), ("copytruncate", 0), ("write", 3)])
@example([("write", 2), ("glance", 0), ("copytruncate", 0), ("write", 9)])
@example([("write", 1), ("look", 0), *[("rotate", 0), ("write", 1), ("look", 0)] * 6, ("late", 0), ("look", 0)])
@pytest.mark.timeout(1200)
def test_programs_that_are_seldom_looked_at(played: list[tuple[str, int]]) -> None:
    """After any program both sides hold what was written, once and in order, and another start changes nothing."""
    with shared_rig() as rig:
        run_program(rig, played)
