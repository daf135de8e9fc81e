"""What a component is given."""

from __future__ import annotations

from collections.abc import Mapping as MappingType
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Message:
    """One message.

    `data` is its bytes as they were written; `text` the same for who wants a str. `fields` holds extra columns.
    `position` says where it stands: an entry's ID, or `<file>:<generation>:<offset>`. `redelivered`: it may have been
    given before, to a process that died before it was done with it.
    """

    role: str
    type: str
    timestamp: str
    data: bytes
    position: str = ""
    redelivered: bool = False
    fields: MappingType[str, bytes] = field(default_factory=dict)

    def again(self) -> Message:
        """The same, marked as given before."""
        return replace(self, redelivered=True)

    @property
    def text(self) -> str:
        """The data, what is not UTF-8 replaced."""
        return self.data.decode("utf-8", "replace")


def made(values: MappingType[bytes, bytes], position: str, *, redelivered: bool) -> Message:
    """A message out of an entry's fields, or a row's."""

    def text(name: bytes) -> str:
        return values.get(name, b"").decode("utf-8", "replace")

    known = (b"role", b"timestamp", b"type", b"data", b"origin")
    extra = {name.decode("utf-8", "replace"): value for name, value in values.items() if name not in known}
    return Message(
        text(b"role"), text(b"type"), text(b"timestamp"), values.get(b"data", b""), position, redelivered, extra
    )
