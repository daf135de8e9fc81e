"""The sections (tables) of a mapping file, each validated by itself (DESIGN §5.2).

`mapping.py` checks which sections fit which kind of source.
"""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from bridge.core.codecs import FORMATS, FieldRule
from bridge.core.codecs.timestamps import offset_of, zone_of
from bridge.core.strict_models import Strict

_FIELD_NAME = re.compile(r"[a-z0-9_]+")
RESERVED_FIELDS = ("origin",)

Kind = Literal["log", "spool", "context", "state", "artifacts"]


def inside_root(path: str) -> None:
    """Raises ValueError when a path in a mapping's section could leave the root."""
    if not path or path.startswith("/") or ".." in Path(path).parts:
        raise ValueError(f"path {path!r} must stay below the root, relative to it")


class SourceSection(Strict):
    """A mapping's section `[source]`: which files it reads, and how."""

    kind: Kind
    path: str
    rotated: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    settle_ms: Annotated[int, Field(ge=0, le=60_000)] = 200
    idle_ms: Annotated[int, Field(ge=1, le=60_000)] = 50
    owner: Literal["file", "redis"] = "file"
    on_rewrite: Literal["align", "stop", "new"] = "align"
    order: Literal["evidence", "name", "mtime", "number_up", "number_down"] = "evidence"

    @field_validator("path", "rotated", "exclude")
    @classmethod
    def _inside(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for path in (value,) if isinstance(value, str) else value:
            inside_root(path)
        return value


class FormatSection(Strict):
    """A mapping's section `[format]`: how a line, or a whole file, is read."""

    codec: Literal["delimited", "jsonl", "regex", "document"] | None = None
    delimiter: str | None = None
    columns: tuple[str, ...] = ()
    pattern: str | None = None
    timestamp: str = "iso8601"
    timezone: str = "UTC"
    zones: dict[str, str] = Field(default_factory=dict)
    no_time: Literal["quarantine", "previous"] = "quarantine"
    max_line_bytes: Annotated[int, Field(ge=1, le=1 << 28)] = 1 << 20
    continuation: bool = False

    @field_validator("timezone")
    @classmethod
    def _zone(cls, name: str) -> str:
        try:
            zone_of(name)
        except (ValueError, OSError, KeyError):
            raise ValueError(f"unknown time zone {name!r}, use a name such as UTC or Europe/Madrid") from None
        return name

    @field_validator("zones")
    @classmethod
    def _offsets(cls, value: dict[str, str]) -> dict[str, str]:
        for name, offset in value.items():
            if not re.fullmatch("[A-Za-z]{1,6}", name):
                raise ValueError(f"{name!r} is no abbreviation of a time zone such as CEST")
            offset_of(offset)
        return value

    @field_validator("timestamp")
    @classmethod
    def _pattern(cls, value: str) -> str:
        if value not in FORMATS and "%" not in value:
            raise ValueError(
                f"{value!r} is none of {', '.join(FORMATS)}, nor a strptime pattern such as %d/%b/%Y %H:%M:%S"
            )
        if value not in FORMATS:
            try:
                datetime.strptime("", value)
            except ValueError as error:
                if "directive" in str(error) or ("format" in str(error) and "match" not in str(error)):
                    raise ValueError(f"{value!r} is no strptime pattern: {error}") from None
        return value

    @model_validator(mode="after")
    def _fits(self) -> FormatSection:
        if self.codec == "delimited":
            if not self.delimiter or "\n" in self.delimiter:
                raise ValueError("codec 'delimited' needs format.delimiter, without a newline")
            if not self.columns:
                raise ValueError("codec 'delimited' needs format.columns")
            for column in self.columns:
                if not _FIELD_NAME.fullmatch(column) or column in RESERVED_FIELDS:
                    raise ValueError(f"column {column!r} must match [a-z0-9_]+ and not be 'origin'")
            if len(set(self.columns)) != len(self.columns):
                raise ValueError("format.columns names a column twice")
        elif self.delimiter or self.columns:
            raise ValueError("format.delimiter and format.columns belong to codec 'delimited'")
        if self.codec == "regex" and not self.pattern:
            raise ValueError("codec 'regex' needs format.pattern")
        if self.pattern and self.codec not in ("regex", "document"):
            raise ValueError("format.pattern belongs to the codecs 'regex' and 'document'")
        for group in re.compile(self.pattern.encode()).groupindex if self.pattern else ():
            if not _FIELD_NAME.fullmatch(group) or group in RESERVED_FIELDS:
                raise ValueError(f"group {group!r} must match [a-z0-9_]+ and not be 'origin'")
        return self

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            re.compile((value or "").encode())
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        return value


class FieldSection(Strict):
    """A key of a mapping's section `[message]`, such as `message.role`: where a field without a column comes from."""

    pointer: str | None = None
    pointers: tuple[str, ...] = ()
    const: str | None = None
    name: Literal["stem", "folder"] | None = None
    default: str | None = None

    @model_validator(mode="after")
    def _one_way(self) -> FieldSection:
        ways = [self.pointer is not None, bool(self.pointers), self.const is not None, self.name is not None]
        if sum(ways) != 1:
            raise ValueError("give exactly one of pointer, pointers, const, name")
        for pointer in self.all_pointers:
            if pointer and not pointer.startswith("/"):
                raise ValueError(f"pointer {pointer!r} must begin with / (RFC 6901)")
        return self

    @property
    def all_pointers(self) -> tuple[str, ...]:
        """The JSON pointers, in a mapping's section, that are tried in this order to find a message's field."""
        return (self.pointer,) if self.pointer is not None else self.pointers

    def rule(self, path: str) -> FieldRule:
        """Makes the codec's rule for a field from a mapping's section and a file's path.

        The rule's constant may be the file's name without suffixes, or the name of its folder.
        """
        const = self.const
        if self.name is not None:
            const = Path(path).name.partition(".")[0] if self.name == "stem" else Path(path).parent.name
        return FieldRule(
            self.all_pointers,
            None if const is None else const.encode("utf-8", "surrogateescape"),
            None if self.default is None else self.default.encode(),
        )


class MessageSection(Strict):
    """A mapping's section `[message]`: where a message's fields come from."""

    role: FieldSection | None = None
    timestamp: FieldSection | None = None
    type: FieldSection | None = None
    data: FieldSection | None = None
    id: FieldSection | None = None
    artifact_types: tuple[str, ...] = ("artifact_saved",)

    @field_validator("id")
    @classmethod
    def _found(cls, section: FieldSection | None) -> FieldSection | None:
        if section is not None and not section.all_pointers:
            raise ValueError("message.id is found by a pointer, or by pointers")
        return section


INSTANCE = "{instance}"
"""What stands in `stream.key` for the name of the bridge: each bridge with the mapping has a stream of its own."""

NAME = "{name}"
"""What stands in `stream.key` for the name of a log: each log of the mapping has a stream of its own."""


class StreamSection(Strict):
    """A mapping's section `[stream]`: which stream its messages go to."""

    key: Annotated[str, Field(min_length=1)]
    notify: str | None = None
    history: bool = False

    @field_validator("key")
    @classmethod
    def _slot(cls, key: str) -> str:
        rest = key.replace(INSTANCE, "").replace(NAME, "", 1)
        if "{" in rest or "}" in rest or "\n" in rest:
            raise ValueError(
                f"only {INSTANCE} and, once, {NAME} may stand in stream.key, and no other braces or newlines: the"
                " bridge's own keys are bridge:{KEY}:…"
            )
        return key

    def of(self, instance: str) -> StreamSection:
        """Returns a mapping's section `[stream]` with the bridge's name in the place of `{instance}`."""
        return self._with(INSTANCE, instance)

    def of_log(self, name: str) -> StreamSection:
        """Returns a mapping's section `[stream]` with the name of a log's stream in the place of `{name}`."""
        return self._with(NAME, name)

    def _with(self, word: str, value: str) -> StreamSection:
        notify = self.notify.replace(word, value) if self.notify else None
        return self.model_copy(update={"key": self.key.replace(word, value), "notify": notify})


class MirrorSection(Strict):
    """A mapping's section `[mirror]`: where and how Redis-born entries become lines or files."""

    path: str
    name: str = "{timestamp}-{role}-{type}.json"
    template: str | None = None
    lock: Literal["none", "flock"] = "none"
    newline: Literal["escape", "reject"] = "escape"
    abandoned_line_s: Annotated[float, Field(gt=0)] | None = None

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        inside_root(path)
        if set(re.findall(r"\{(.*?)\}", path)) - {"role", "name"}:
            raise ValueError("only {role} and {name} may stand in mirror.path")
        return path

    @field_validator("name")
    @classmethod
    def _one_file(cls, name: str) -> str:
        if "/" in name or name.startswith("."):
            raise ValueError("mirror.name is the name of a file, not hidden, in the folder mirror.path")
        unknown = set(re.findall(r"\{(.*?)\}", name)) - {"role", "timestamp", "type", "id"}
        if unknown:
            raise ValueError(f"mirror.name knows {{role}}, {{timestamp}}, {{type}} and {{id}}, not {{{min(unknown)}}}")
        return name


class RetentionSection(Strict):
    """A mapping's section `[retention]`: how much of the stream stays.

    What is over any of the limits may go; without limits everything stays.
    """

    keep_days: Annotated[float, Field(gt=0)] | None = None
    keep_entries: Annotated[int, Field(ge=1)] | None = None
    keep_bytes: Annotated[int, Field(ge=1)] | None = None
    archive: bool = False
    confirm: bool = True
    """Whether the first trim after the limits were changed waits for `bridge trim --execute`."""

    @model_validator(mode="after")
    def _says_how_much(self) -> RetentionSection:
        if self.archive and not self.limited:
            raise ValueError("archive says where the oldest go: say when, with keep_days, keep_entries or keep_bytes")
        return self

    @property
    def limits(self) -> str:
        """The retention limits of a mapping's section as JSON, for a person to confirm.

        The limits say how much stays, and whether the rest is archived.
        """
        return self.model_dump_json(exclude={"confirm"})

    @property
    def limited(self) -> bool:
        """Whether a mapping's section `[retention]` limits its stream at all, so that entries may be trimmed."""
        return not (self.keep_days is None and self.keep_entries is None and self.keep_bytes is None)


class PolicySection(Strict):
    """A mapping's section `[policy]`: what happens to lines and entries that cannot be translated."""

    on_reject: Literal["quarantine", "stop"] = "quarantine"
