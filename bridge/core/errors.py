"""Every error the bridge raises on purpose: what happened, where, and what to try.

The CLI prints the three parts and exits with the class's `exit_code` (DESIGN §5.4).
"""

import os


class BridgeError(Exception):
    """The root of the bridge's errors: `what` happened, `where` (file, offset, key), and a `hint`: what to try."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what

    @property
    def plain(self) -> str:
        """The error in words without anything of a message, for who may not read messages."""
        return str(self)


class ConfigError(BridgeError):
    """bridge.toml, a mapping, an environment variable or a flag says something unusable."""

    exit_code = 2


class LockHeld(BridgeError):
    """Another process holds the state directory's lock."""


class LedgerError(BridgeError):
    """The ledger cannot be opened, read or written."""


class LedgerFull(LedgerError):
    """The ledger's disk is full: wait for room and try again."""


class NotOwner(BridgeError):
    """The stream belongs to another ledger, or to one that was lost."""


class SourceError(BridgeError):
    """A file cannot be read or followed; other sources go on."""


class RejectStop(BridgeError):
    """A line or an entry cannot be translated and the mapping says `on_reject = "stop"`."""

    @property
    def plain(self) -> str:
        """The error in words without its reason, which may quote the message: where it is, and on_reject is stop."""
        return f"{self.where}: it cannot be translated, and on_reject is stop"


class RewriteStop(RejectStop):
    """A file took a log's place, and nothing tells which of its lines were carried: a person says what it is."""

    @property
    def plain(self) -> str:
        """The error in words: it quotes no message."""
        return str(self)


class TargetError(BridgeError):
    """A mirror's file cannot be written; nothing is lost, the stream keeps the entries."""


class NotYet(BridgeError):
    """Something else must happen before what was asked for, and will soon: try again in a moment."""


class LeaseHeld(NotYet):
    """Another process carries the stream with a copy of this ledger, or did so until a moment ago."""


class ServerError(BridgeError):
    """The embedded server cannot be found, started or stopped."""


class RedisLost(BridgeError):
    """The connection to Redis is gone or was never made; what was sent may or may not have been done."""

    exit_code = 5


class RedisRefused(BridgeError):
    """Redis answered with an error. `code` is the reply's first word, such as OOM or WRONGTYPE."""

    def __init__(self, what: str, *, code: str, where: str = "", hint: str = "") -> None:
        super().__init__(what, where=where, hint=hint)
        self.code = code


class SystemRefused(BridgeError):
    """The operating system answered a call with an error for which there is no better word; the same is tried again."""


def as_bridge_error(error: BridgeError | OSError) -> BridgeError:
    """Gives an OSError as a BridgeError: what a worker notes as its trouble, before it tries again from its notes."""
    if isinstance(error, BridgeError):
        return error
    where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    return SystemRefused(error.strerror or str(error), where=where, hint="nothing was lost; it is tried again")
