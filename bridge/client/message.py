"""The message that a component gets from its log, read from a file or from the stream."""

from __future__ import annotations

from collections.abc import Mapping as MappingType
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Message:
    """A message as a component gets it: role, type, timestamp and data, and its position in a file or the stream.

    `data` is its bytes as they were written; `text` the same as a str. `fields` holds extra columns. `position` says
    where it stands: an entry's ID, or `<file>:<generation>:<offset>`. `redelivered`: it may have been given before, to
    a process that died before it was done with it. `stream`: the name of its stream, where several
    are read in one loop.
    """

    role: str
    type: str
    timestamp: str
    data: bytes
    position: str = ""
    redelivered: bool = False
    fields: MappingType[str, bytes] = field(default_factory=dict)
    stream: str = ""

    def again(self) -> Message:
        """Returns a copy of the component's message that is marked as redelivered."""
        return replace(self, redelivered=True)

    @property
    def text(self) -> str:
        """The data of the component's message as text; bytes that are not UTF-8 are replaced."""
        return self.data.decode("utf-8", "replace")


def made(values: MappingType[bytes, bytes], position: str, *, redelivered: bool) -> Message:
    """Makes the message that a component gets from the fields of an entry, or of a line's row."""

    def text(name: bytes) -> str:
        return values.get(name, b"").decode("utf-8", "replace")

    known = (b"role", b"timestamp", b"type", b"data", b"origin")
    extra = {name.decode("utf-8", "replace"): value for name, value in values.items() if name not in known}
    return Message(
        text(b"role"), text(b"type"), text(b"timestamp"), values.get(b"data", b""), position, redelivered, extra
    )
