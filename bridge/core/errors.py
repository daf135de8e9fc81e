"""Defines the errors that the bridge raises on purpose: each says what happened, where, and what to try.

The CLI prints the three parts and exits with the class's `exit_code` (DESIGN §5.4).
"""

import os


class BridgeError(Exception):
    """The base class of the bridge's errors: `what` happened, `where` (file, offset, key), and a `hint` what to try."""

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
        """Returns the error's text without any content of a message, for readers who may not read messages."""
        return str(self)


class ConfigError(BridgeError):
    """The error raised when bridge.toml, a mapping, an environment variable or a flag has an unusable value."""

    exit_code = 2


class Unfit(ConfigError):
    """The error raised when a Redis server can never be used as it is: `bridge run` ends with it, and does not wait."""


class NewerLayout(Unfit):
    """The error raised when a newer version of the bridge has laid out a stream's keys: nothing of it is touched."""


class LockHeld(BridgeError):
    """The error raised when another process holds the state directory's lock."""


class LedgerError(BridgeError):
    """The error raised when the ledger cannot be opened, read or written."""


class LedgerFull(LedgerError):
    """The error raised when the ledger's disk is full: wait for room and try again."""


class NotOwner(BridgeError):
    """The error raised when a stream belongs to another ledger, or to a ledger that was lost."""


class SourceError(BridgeError):
    """The error raised when a file of a source cannot be read or followed; other sources go on."""


class RejectStop(BridgeError):
    """The error raised when a line or an entry cannot be translated and the mapping says `on_reject = "stop"`."""

    @property
    def plain(self) -> str:
        """Returns the error's text without its reason, which may quote a message: only the place, and the policy."""
        return f"{self.where}: it cannot be translated, and on_reject is stop"


class RewriteStop(RejectStop):
    """The error raised when a file took a log's place and nothing tells which of the file's lines were carried.

    A person says what the file is.
    """

    @property
    def plain(self) -> str:
        """Returns the error's full text, which quotes no message, also for readers who may not read messages."""
        return str(self)


class TargetError(BridgeError):
    """The error raised when a mirror's file cannot be written; nothing is lost, the stream keeps the entries."""


class NotYet(BridgeError):
    """The error raised when something else, which will happen soon, must come first: try again in a moment."""


class LeaseHeld(NotYet):
    """The error raised when another process carries the stream with a copy of this ledger, or did just before."""


class ReplicasBehind(BridgeError):
    """The error raised when fewer replicas than are wanted have a message: what it holds up goes on when they have it.

    Nothing is lost: the message is in the stream, or on disk.
    """

    exit_code = 3


class ServerError(BridgeError):
    """The error raised when the embedded server cannot be found, started or stopped, or a private folder made."""


class RedisLost(BridgeError):
    """The error raised when the connection to Redis is gone or was never made.

    What was sent may or may not have been done.
    """

    exit_code = 5


class RedisRefused(BridgeError):
    """The error raised when Redis answers with an error; `code` is the reply's first word, such as OOM or WRONGTYPE."""

    def __init__(self, what: str, *, code: str, where: str = "", hint: str = "") -> None:
        super().__init__(what, where=where, hint=hint)
        self.code = code


class SystemRefused(BridgeError):
    """The error raised when a system call fails with an error for which no other class fits; the call is retried."""


def as_bridge_error(error: BridgeError | OSError) -> BridgeError:
    """Converts an OSError into a BridgeError, which a worker notes as its trouble before it tries again from its notes.

    A BridgeError stays as it is.
    """
    if isinstance(error, BridgeError):
        return error
    where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    return SystemRefused(error.strerror or str(error), where=where, hint="nothing was lost; it is tried again")
