"""mappings/*.toml → Mapping: which files are which stream, and how a line is a message (DESIGN §5.2)."""

from __future__ import annotations

import re
import tomllib
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from bridge.codecs import FORMATS, Codec, FieldRule, delimited, jsonl, regexp
from bridge.codecs.continued import Continued
from bridge.codecs.template import TemplateCodec
from bridge.codecs.timestamps import clock_for, zone_of
from bridge.errors import ConfigError
from bridge.schema import Strict, validated

_NAME = re.compile(r"[a-z0-9_]+")
RESERVED = ("origin",)


class SourceSection(Strict):
    """`[source]`: the files."""

    kind: Literal["log"]
    path: str
    rotated: tuple[str, ...] = ()
    settle_ms: Annotated[int, Field(ge=0, le=60_000)] = 200

    @field_validator("path", "rotated")
    @classmethod
    def _inside(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for path in (value,) if isinstance(value, str) else value:
            inside_root(path)
        return value


class FormatSection(Strict):
    """`[format]`: how a line is read."""

    codec: Literal["delimited", "jsonl", "regex"]
    delimiter: str | None = None
    columns: tuple[str, ...] = ()
    pattern: str | None = None
    timestamp: str = "iso8601"
    timezone: str = "UTC"
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
                if not _NAME.fullmatch(column) or column in RESERVED:
                    raise ValueError(f"column {column!r} must match [a-z0-9_]+ and not be 'origin'")
            if len(set(self.columns)) != len(self.columns):
                raise ValueError("format.columns names a column twice")
        elif self.delimiter or self.columns:
            raise ValueError("format.delimiter and format.columns belong to codec 'delimited'")
        if (self.codec == "regex") != bool(self.pattern):
            raise ValueError("codec 'regex' needs format.pattern, and no other has one")
        for group in re.compile(self.pattern.encode()).groupindex if self.pattern else ():
            if not _NAME.fullmatch(group) or group in RESERVED:
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
    """`message.role` and its like: where a field comes from when no column holds it."""

    pointer: str | None = None
    pointers: tuple[str, ...] = ()
    const: str | None = None
    name: Literal["stem"] | None = None
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
        """The pointers to try, in order."""
        return (self.pointer,) if self.pointer is not None else self.pointers

    def rule(self, stem: str) -> FieldRule:
        """What the codec is told, for a source whose file name without suffixes is `stem`."""
        const = stem if self.name == "stem" else self.const
        return FieldRule(
            self.all_pointers,
            None if const is None else const.encode("utf-8", "surrogateescape"),
            None if self.default is None else self.default.encode(),
        )


class MessageSection(Strict):
    """`[message]`."""

    role: FieldSection | None = None
    timestamp: FieldSection | None = None
    type: FieldSection | None = None
    data: FieldSection | None = None


class StreamSection(Strict):
    """`[stream]`."""

    key: Annotated[str, Field(min_length=1)]
    notify: str | None = None

    @field_validator("key")
    @classmethod
    def _slot(cls, key: str) -> str:
        if "{" in key or "}" in key or "\n" in key:
            raise ValueError("stream.key must not hold braces or newlines: the bridge's own keys are bridge:{KEY}:…")
        return key


class MirrorSection(Strict):
    """`[mirror]`: where Redis-born entries become lines."""

    path: str
    template: str | None = None
    lock: Literal["none", "flock"] = "none"
    newline: Literal["escape", "reject"] = "escape"
    abandoned_line_s: Annotated[float, Field(gt=0)] | None = None

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        inside_root(path)
        if set(re.findall(r"\{(.*?)\}", path)) - {"role"}:
            raise ValueError("only {role} may stand in mirror.path")
        return path


class PolicySection(Strict):
    """`[policy]`."""

    on_reject: Literal["quarantine", "stop"] = "quarantine"


class Mapping(Strict):
    """One mapping, validated."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str = ""
    source: SourceSection
    format: FormatSection
    message: MessageSection = MessageSection()
    stream: StreamSection
    mirror: MirrorSection | None = None
    policy: PolicySection = PolicySection()

    @model_validator(mode="after")
    def _codec_works(self) -> Mapping:
        try:
            codec = self.codec("x")
        except ConfigError as error:
            raise ValueError("; ".join(filter(None, (error.what, error.hint)))) from None
        if self.mirror is not None and not codec.invertible:
            raise ValueError("this codec has no inverse: give mirror.template, or leave [mirror] out")
        return self

    @property
    def notify(self) -> str:
        """The Pub/Sub channel."""
        return self.stream.notify or f"{self.stream.key}:notify"

    def claims(self, path: str) -> bool:
        """Whether a file of this relative path would be read by this mapping."""
        wanted = path.replace("{role}", "x")
        return any(fnmatchcase(wanted, p) or fnmatchcase(p, wanted) for p in (self.source.path, *self.source.rotated))

    def codec(self, source_name: str) -> Codec:
        """The codec for one source; `source_name` is its path below the root."""
        stem = Path(source_name).name.partition(".")[0]
        rules = {
            name: section.rule(stem)
            for name in ("role", "timestamp", "type", "data")
            if (section := getattr(self.message, name)) is not None
        }
        clock = clock_for(self.format.timestamp, self.format.timezone)
        escape = self.mirror is None or self.mirror.newline == "escape"
        codec: Codec
        if self.format.codec == "delimited":
            codec = delimited.Delimited(self.format.delimiter or "", self.format.columns, rules, clock, escape)
        elif self.format.codec == "regex":
            codec = regexp.Regex(self.format.pattern or "", rules, clock)
        else:
            codec = jsonl.Jsonl(rules, clock)
        if self.mirror is not None and self.mirror.template is not None:
            codec = TemplateCodec(codec, self.mirror.template, escape)
        return Continued(codec) if self.format.continuation else codec


def inside_root(path: str) -> None:
    """Raises ValueError when a mapping's path could leave the root."""
    if not path or path.startswith("/") or ".." in Path(path).parts:
        raise ValueError(f"path {path!r} must stay below the root, relative to it")


def shipped_dir() -> Path:
    """Where the shipped mappings are: in the wheel, or beside the package in a checkout."""
    packaged = Path(__file__).parent / "_mappings"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "mappings"


def shipped_names() -> list[str]:
    """The shipped mappings' names, sorted."""
    return sorted(path.stem for path in shipped_dir().glob("*.toml"))


def mapping_path(name: str, base: Path) -> Path:
    """A shipped mapping's file, or the file that `name` is a path to. Raises ConfigError when there is neither."""
    import difflib

    shipped = shipped_dir() / f"{name}.toml"
    if "/" not in name and not name.endswith(".toml") and shipped.is_file():
        return shipped
    path = base / name
    if path.is_file():
        return path
    if "/" in name or name.endswith(".toml"):
        raise ConfigError("there is no such mapping file", where=str(path))
    near = difflib.get_close_matches(name, shipped_names(), 1)
    raise ConfigError(
        f"there is no mapping '{name}'",
        where=str(base),
        hint=f"did you mean '{near[0]}'?"
        if near
        else f"shipped: {', '.join(shipped_names())}; or a path to a .toml file",
    )


def read_mapping(name: str, base: Path) -> dict[str, Any]:
    """The mapping file's tables as they are written. Raises ConfigError."""
    path = mapping_path(name, base)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read as TOML: {error}", where=str(path)) from None


def load_mapping(name: str, base: Path) -> Mapping:
    """A shipped mapping by name, or one by path relative to `base`. Raises ConfigError."""
    return validated(Mapping, read_mapping(name, base), str(mapping_path(name, base)))
