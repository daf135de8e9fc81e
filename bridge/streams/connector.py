"""Connects to a server of a url with what bridge.toml says for all of them: time limits, and whence passwords come."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

from bridge.core.config import Settings
from bridge.core.errors import RedisLost
from bridge.core.model import shown
from bridge.streams.connect import Connection
from bridge.streams.entry_budget import EntryBudget

COMMAND_SECONDS = 30.0
"""Seconds that the command for a password has to print one."""


@dataclass(frozen=True, slots=True)
class Connector:
    """Connects to Redis servers: time limit in seconds, page budget, and the command that prints the password.

    `lasts`: the seconds for which such a password is good; 0: it is not known.
    """

    timeout: float = 5.0
    budget: EntryBudget | None = None
    command: tuple[str, ...] = ()
    lasts: float = 0.0

    @classmethod
    def of(cls, settings: Settings, *, timeout: float = 5.0, budget: EntryBudget | None = None) -> Connector:
        """Makes the connector for the servers of a bridge.toml."""
        return cls(timeout, budget, settings.password_command, settings.password_lasts)

    def __call__(self, url: str, *, timeout: float = 0.0, in_cluster: bool = False) -> Connection:
        """Connects to the server of a url; the password is asked for anew. Raises RedisLost, RedisRefused, ConfigError.

        `timeout`: another time limit than the usual one.
        """
        password = self._password() if self.command else None
        return Connection(url, timeout=timeout or self.timeout, budget=self.budget, in_cluster=in_cluster,
                          password=password, lasts=self.lasts if self.command else 0.0)  # fmt: skip

    def _password(self) -> str:
        """Runs the command that prints a password. Raises RedisLost where it prints none: it is tried again."""
        where = f"redis.password_command ({self.command[0]})"
        try:
            done = subprocess.run(
                self.command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=COMMAND_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise RedisLost(f"printed no password in {COMMAND_SECONDS:.0f} s", where=where) from None
        except (OSError, ValueError) as error:
            hint = "is it installed, and on the PATH of this process?"
            why = getattr(error, "strerror", None) or str(error)
            raise RedisLost(f"cannot be run: {why}", where=where, hint=hint) from None
        password = done.stdout.partition(b"\n")[0].rstrip(b"\r").decode(errors="surrogateescape")
        if done.returncode or not password:
            said = next(iter(done.stderr.strip().splitlines()), b"it printed nothing")
            raise RedisLost(f"printed no password (exit {done.returncode}): {shown(said, 200)}", where=where)
        return password
