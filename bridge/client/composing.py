"""Composes the messages that a component appends: role and timestamp are derived where the component names none."""

from __future__ import annotations

import json
from collections.abc import Callable
from collections.abc import Mapping as MappingType
from datetime import UTC, datetime
from typing import Any

from bridge.core.codecs.timestamps import EPOCHS, shown_time
from bridge.core.config import Settings
from bridge.core.errors import ConfigError, TargetError
from bridge.core.mapping import Mapping

Values = dict[bytes, bytes]
"""The fields of a message that a component appends, by name."""


class Composer:
    """Composes one component's messages for one mapping. `now` tells the time for those without a timestamp."""

    def __init__(
        self, mapping: Mapping, settings: Settings, component: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:  # fmt: skip
        self._mapping, self._settings, self._component, self._now = mapping, settings, component, now

    def message(
        self,
        type: str,
        data: str | bytes,
        role: str | None,
        timestamp: str | None,
        fields: MappingType[str, str | bytes],
    ) -> tuple[str, Values]:
        """Composes a message of its parts; returns its role, and its fields by name. Raises ConfigError."""
        role = role if role is not None else self._settings.role_of(self._component)
        timestamp = timestamp if timestamp is not None else self._stamp(self._now())
        values = {b"role": role.encode(), b"timestamp": timestamp.encode(), b"type": type.encode(),
                  b"data": data.encode() if isinstance(data, str) else data}  # fmt: skip
        return role, values | {
            name.encode(): value.encode() if isinstance(value, str) else value for name, value in fields.items()
        }

    def text(self, type: str, text: str, role: str, moment: datetime) -> tuple[str, Values]:
        """Composes a message of text that may have several lines, at a moment; returns its role, and its fields.

        A mapping of JSON gets an object with the text as `message`; one that reads no further lines has the text on one
        line, with `\\n` for its newlines. Raises TargetError, ConfigError.
        """
        text = text.encode("utf-8", "backslashreplace").decode()  # a lone surrogate is no UTF-8
        if self._mapping.of_json:
            return self._object({"message": text}, role, {"type": type, "timestamp": self._json_stamp(moment)})
        if not self._mapping.format.continuation:
            text = text.replace("\n", "\\n")
        return self.message(type, text, role, self._stamp(moment), {})

    def line(self, line: bytes, role: str | None) -> tuple[str, Values]:
        """Composes a message of the line that it is to be; returns its role, and its fields by name.

        `role`: of the message, where the line does not tell it and the component has several. Raises TargetError: the
        line is no message of the mapping; ConfigError.
        """
        told = role if role is not None else self._only_role()
        path = self._mapping.mirror.path if self._mapping.mirror is not None else self._mapping.source.path
        codec = self._mapping.codec(path.replace("{role}", told) if told is not None else path)
        raw = line.removesuffix(b"\n")
        found = codec.decode((raw,)).rows[0]
        if isinstance(found, str):
            raise TargetError(f"the line is no message of mapping '{self._mapping.name}': {found}", where=shown(raw))
        if codec.encode(found) != raw:
            raise TargetError("the line would be another one after the stream", where=shown(raw), hint="append(…) it")
        values = dict(zip(codec.fields, found, strict=True))
        return values[b"role"].decode("utf-8", "surrogateescape"), values

    def json(self, value: MappingType[str, Any], role: str | None) -> tuple[str, Values]:
        """Composes a message of the JSON object that its line is to be; returns its role, and its fields by name.

        The time, and the component's role, are put in where the mapping looks for them and the object has none. Raises
        TargetError: that is no message of the mapping; ConfigError: the mapping's lines are no JSON.
        """
        if not self._mapping.of_json:
            said = f"the lines of mapping '{self._mapping.name}' are no JSON"
            raise ConfigError(said, hint="append(type, json.dumps(…))")
        return self._object(value, role, {"timestamp": self._json_stamp(self._now())})

    def _object(
        self, value: MappingType[str, Any], role: str | None, told: MappingType[str, object]
    ) -> tuple[str, Values]:
        """Composes a message of a JSON object, with what is `told` and the role put in where the object has none."""
        name, whole = self._mapping.name, dict(value)
        for part, put in {**told, "role": role or self._only_role()}.items():
            section = getattr(self._mapping.message, part)
            rule = section.rule("x") if section is not None else None
            if rule is not None and rule.const is None and rule.pointers and not _tells(whole, rule.pointers):
                _put(whole, rule.pointers[0], put)
        try:
            line = json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        except (TypeError, ValueError) as error:
            raise TargetError(f"the object is no JSON: {error}", where=name) from None
        return self.line(line, role)

    def _stamp(self, moment: datetime) -> str:
        return shown_time(self._mapping.format.timestamp, self._mapping.format.timezone, moment)

    def _json_stamp(self, moment: datetime) -> str | float:
        pattern, stamp = self._mapping.format.timestamp, self._stamp(moment)
        return stamp if pattern not in EPOCHS else float(stamp) if "." in stamp else int(stamp)

    def _only_role(self) -> str | None:
        roles = self._settings.components.get(self._component, frozenset())
        return next(iter(roles)) if len(roles) == 1 else None


def shown(line: bytes) -> str:
    """Shows a component's line in an error, its beginning at least."""
    text = line[:200].decode("utf-8", "backslashreplace")
    return text if len(line) <= 200 else f"{text}…"


def _tells(value: MappingType[str, Any], pointers: tuple[str, ...]) -> bool:
    for pointer in pointers:
        at: Any = value
        for token in pointer.split("/")[1:]:
            at = at.get(token) if isinstance(at, dict) else None
        if at is not None:
            return True
    return False


def _put(value: dict[str, Any], pointer: str, what: object) -> None:
    """Puts a value into a component's JSON object at a pointer, with the objects that lead there; None: nothing."""
    *folders, last = pointer.split("/")[1:]
    if what is None:
        return
    for token in folders:
        below = value.get(token)
        value[token] = value = dict(below) if isinstance(below, dict) else {}
    value[last] = what
