"""The demo's story of a whole migration: cuts three components over to Redis one by one, rolls one back, and retires.

Every change is made by a command of the bridge, as an operator types it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from bridge.admin.demo.stage import Stage, plain_environment, player
from bridge.core.errors import ServerError

CONFIG = """instance = "demo"
mappings = ["hestai-message"]

[components.agent]
roles = ["agent"]

[components.daemon]
roles = ["daemon"]

[components.ui]
roles = ["ui"]
"""

RATES = {"agent": 60, "daemon": 40, "ui": 50}
"""Messages a second of each component; each reads all of them."""

TALK_SECONDS = 0.7
"""Seconds for which the components talk between two commands."""

SETTLE_SECONDS = 20.0
MAPPING = "hestai-message"


@dataclass(slots=True)
class StoryResult:
    """Reports the demo's story: messages that each component wrote, faults, and every command with its output."""

    written: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    commands: list[tuple[str, int, str]] = field(default_factory=list)


class Story:
    """Plays the demo's story of a migration on a stage, and checks it.

    `say` is called with each line of the transcript; `wait` waits so many seconds.
    """

    def __init__(self, stage: Stage, say: Callable[[str], None], wait: Callable[[float], object]) -> None:
        self._stage = stage
        self._say = say
        self._wait = wait
        self.told = StoryResult()

    def run(self) -> StoryResult:
        """Plays the whole story of the demo's migration, and returns the result.

        Raises ServerError where a component never gets what was written.
        """
        stage = self._stage
        for name, rate in RATES.items():
            stage.programs[name] = player("component", str(stage.config), name, str(rate))
        self._order("talk")
        self._say("Three components talk through messages.log: each writes, and each reads what all of them write.")
        self._begins()
        self._command("parity")
        self._say("ui is the first to go over: what it reads, then what it writes.")
        self._command("cutover", "ui")
        self._command("cutover", "ui", "--execute")
        self._say("The others read and write the file, and notice nothing. agent goes over.")
        self._command("cutover", "agent", "--execute")
        self._say("Somebody gets cold feet: agent goes back, and over again.")
        self._command("rollback", "agent", "--execute", "--reason", "cold feet")
        self._command("cutover", "agent", "--execute", "--reason", "warm feet")
        self._say("daemon is the last one.")
        self._command("cutover", "daemon", "--execute")
        self._command("parity")
        self._count("They are quiet for a moment, and each says what it was given.")
        self._command("journal")
        self._say("Nobody needs the file any more: the bridge stops, and the migration is over.")
        stage.stop_bridge()
        self._command("retire", MAPPING, "--execute", "--force", MAPPING)
        self._command("purge", MAPPING, "--execute")
        self._order("talk")
        self._wait(2 * TALK_SECONDS)
        self._count("They went on talking, through Redis alone.")
        self._say("Each is ended and started again, with no bridge: none goes back to the file.")
        dead = stage.log.read_bytes()
        self._restart()
        self._order("talk")
        self._wait(2 * TALK_SECONDS)
        self._count("They talk, and are quiet again.")
        if stage.log.read_bytes() != dead:
            self.told.wrong.append(f"a program that was started again has written to {stage.log.name}")
        self._say(
            "A script that nobody thought of writes to the dead file. It is seen, and what it wrote is brought over."
        )
        with stage.log.open("a") as file:
            file.write("cron|2026-03-02T09:20:00Z|note|1 from a script\n")
        self._command("status", expect=3)
        self._command("repair", "--execute")
        self._command("status")
        self._count("Each of them was given that one too.", others={"cron": 1})
        return self.told

    def _begins(self) -> None:
        """Waits until the story's bridge carries, and the components have talked for a moment. Raises ServerError."""
        said, deadline = self._stage.root / "bridge.log", time.monotonic() + SETTLE_SECONDS
        while "carrying" not in said.read_text(errors="replace"):
            if time.monotonic() > deadline:
                tail = said.read_text(errors="replace")[-2000:]
                raise ServerError(f"the bridge did not begin within {SETTLE_SECONDS:.0f} s; it said:\n{tail}")
            self._wait(0.1)
        self._wait(2 * TALK_SECONDS)

    def _restart(self) -> None:
        """Restarts every component of the story, which goes on counting where it was."""
        for name, program in self._stage.programs.items():
            if program.stdin is not None:
                program.stdin.close()
            program.wait()
            given = json.dumps(self.told.written)
            self._stage.programs[name] = player("component", str(self._stage.config), name, str(RATES[name]), given)

    def _command(self, *args: str, expect: int = 0) -> None:
        """Runs one command of the bridge for the demo's story, and adds command and output to the transcript."""
        text = " ".join(["bridge", *(f'"{arg}"' if " " in arg else arg for arg in args)])
        self._say(f"$ {text}")
        done = subprocess.run(
            [sys.executable, "-m", "bridge", *args, "--config", str(self._stage.config)], stdin=subprocess.DEVNULL,
            capture_output=True, text=True, env=plain_environment(), check=False,
        )  # fmt: skip
        output = (done.stdout + done.stderr).rstrip("\n")
        self.told.commands.append((text, done.returncode, output))
        for line in output.splitlines():
            self._say(f"  {line}")
        if done.returncode != expect:
            self.told.wrong.append(f"`{text}` ended with {done.returncode}")
        self._wait(TALK_SECONDS)

    def _order(self, word: str) -> None:
        for program in self._stage.programs.values():
            if program.stdin is not None:
                program.stdin.write(f"{word}\n".encode())
                program.stdin.flush()

    def _answers(self, word: str) -> dict[str, str]:
        """Gives an order to every component of the story, and returns the line with which each answers."""
        self._order(word)
        return {
            name: program.stdout.readline().decode().strip()
            for name, program in self._stage.programs.items() if program.stdout is not None
        }  # fmt: skip

    def _count(self, what: str, others: Mapping[str, int] = MappingProxyType({})) -> None:
        """Stops the story's components from writing, and checks that each was given every message, once and in order.

        `others`: how many messages of other writers each must have been given.
        """
        self._say(what)
        self.told.written = {name: int(said) for name, said in self._answers("hush").items()}
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            given = {name: json.loads(said) for name, said in self._answers("count").items()}
            if all(told["counts"] == {**self.told.written, **others} for told in given.values()):
                break
            if time.monotonic() > deadline:
                raise ServerError(
                    f"after {SETTLE_SECONDS:.0f} s not all is given: written {self.told.written}, given {given}"
                )
            self._wait(0.1)
        for name, told in given.items():
            counts = ", ".join(f"{count:,} of {role}" for role, count in sorted(told["counts"].items()))
            wrong = told["wrong"]
            self._say(f"  {name} was given {counts}: " + ("; ".join(wrong) if wrong else "each once, in order"))
            self.told.wrong += [text for text in wrong if text not in self.told.wrong]
