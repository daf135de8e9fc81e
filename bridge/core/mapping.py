"""Loads mappings from mappings/*.toml: which files are which stream, and how a line is a message (DESIGN §5.2)."""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PrivateAttr, model_validator

from bridge.core.codecs import Codec, FieldRule, delimited, jsonl, regexp
from bridge.core.codecs.artifact import ArtifactCodec
from bridge.core.codecs.chunk import ChunkCodec
from bridge.core.codecs.document import JsonDocumentCodec, TextDocumentCodec, iso_time, text_of
from bridge.core.codecs.line_template import TemplateCodec
from bridge.core.codecs.multiline import MultilineCodec
from bridge.core.codecs.timestamps import Clock, clock_for, or_none
from bridge.core.errors import ConfigError
from bridge.core.globs import is_glob, translated
from bridge.core.kind_traits import KINDS, KindTraits
from bridge.core.mapping_sections import (
    NAME,
    FormatSection,
    MessageSection,
    MirrorSection,
    PolicySection,
    RetentionSection,
    SourceSection,
    StreamSection,
)
from bridge.core.stream_names import as_mapping_name, name_in
from bridge.core.strict_models import Strict, validated

MEANT = {
    "source.rotated": ("log",),
    "source.order": ("log",),
    "source.settle_ms": ("log", "spool", "state", "artifacts"),
    "source.owner": ("state",),
    "stream.history": ("state",),
    "source.idle_ms": ("context",),
    "message.id": ("spool",),
    "message.artifact_types": ("log",),
    "mirror.name": ("spool",),
    "mirror.template": ("log",),
    "mirror.lock": ("log",),
    "mirror.newline": ("log",),
    "mirror.abandoned_line_s": ("log",),
    "format.continuation": ("log",),
    "format.codec": ("log", "spool"),
    "format.max_line_bytes": ("log", "spool"),
    "policy.on_reject": ("log", "spool"),
    "format.timestamp": ("log", "spool"),
    "format.timezone": ("log", "spool"),
    "format.zones": ("log", "spool"),
    "format.no_time": ("log",),
}
"""The keys of a mapping that mean something for some kinds of sources only, each with these kinds."""


class Mapping(Strict):
    """A mapping: the declaration that ties sources to a stream, read from its file and validated."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str = ""
    source: SourceSection
    format: FormatSection = FormatSection()
    message: MessageSection = MessageSection()
    stream: StreamSection
    mirror: MirrorSection | None = None
    policy: PolicySection = PolicySection()
    retention: RetentionSection = RetentionSection()
    _log: str = PrivateAttr("")
    _family: str = PrivateAttr("")

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Mapping:
        kind = self.source.kind
        for key, kinds in MEANT.items():
            table, _, name = key.partition(".")
            section = getattr(self, table)
            if kind not in kinds and section is not None and name in section.model_fields_set:
                raise ValueError(f"{key} means nothing for source.kind '{kind}', it is for {' and '.join(kinds)}")
        if self.mirror is not None and not self.kind.mirrored:
            raise ValueError(f"[mirror] means nothing for source.kind '{kind}', which goes to the stream alone")
        if self.retention.limited and self.kind.latest and not self.stream.history:
            raise ValueError("[retention] is for streams, and this state has none without stream.history")
        if self.format.codec not in self.kind.codecs:
            known = ", ".join(map(str, self.kind.codecs))
            if self.format.codec is None:
                raise ValueError(f"key 'format.codec' is missing: {known}")
            raise ValueError(f"format.codec '{self.format.codec}' is not for source.kind '{kind}', which has {known}")
        return self

    @model_validator(mode="after")
    def _names_its_streams(self) -> Mapping:
        if self.many_streams and not (self.kind.lines and is_glob(self.source.path)):
            raise ValueError(f"{NAME} in stream.key is for logs of which source.path names many, with a glob")
        if self.stream.key.startswith(NAME):
            raise ValueError(f"something stands before {NAME} in stream.key, to tell the streams from other keys")
        if self.mirror is not None and self.many_streams != (NAME in self.mirror.path):
            raise ValueError(f"{NAME} stands in both, stream.key and mirror.path, or in neither")
        return self

    @model_validator(mode="after")
    def _codec_works(self) -> Mapping:
        try:
            codec = self.codec("x")
        except ConfigError as error:
            raise ValueError("; ".join(filter(None, (error.what, error.hint)))) from None
        if self.mirror is not None and self.kind.whole_files and not self._tells_time:
            raise ValueError("a mirrored file must tell its time: give message.timestamp, or leave [mirror] out")
        if self.message.id is not None and self.format.pattern is not None:
            raise ValueError("message.id is found in JSON, and format.pattern is for texts: give one of them")
        if self.mirror is not None and not codec.invertible:
            raise ValueError("this codec has no inverse: give mirror.template, or leave [mirror] out")
        return self

    @property
    def kind(self) -> KindTraits:
        """The traits of the kind of source that a mapping is for."""
        return KINDS[self.source.kind]

    def of_bridge(self, instance: str) -> Mapping:
        """Returns the mapping as the bridge of this name has it: with its own stream, where `stream.key` says so."""
        return self.model_copy(update={"stream": self.stream.of(instance)})

    @property
    def many_streams(self) -> bool:
        """Whether each log of the mapping has a stream of its own: then what is carried are the mappings `of_log`."""
        return NAME in self.stream.key

    @property
    def log(self) -> str:
        """The one log that a mapping is of, where it is one stream of a mapping with many; else empty."""
        return self._log

    @property
    def family(self) -> str:
        """The name of the mapping with many streams that this is one stream of; for any other mapping its own name."""
        return self._family or self.name

    def of_log(self, log: str, name: str) -> Mapping:
        """Returns the mapping of one of many streams: of the log of this path below the root, whose stream has `name`.

        Its mirror writes into the log, or into a file that is no other log of the mapping.
        """
        update: dict[str, Any] = {"name": as_mapping_name(self.name, name), "stream": self.stream.of_log(name)}
        if self.mirror is not None:
            path = self.mirror.path.replace(NAME, name_in(self.source.path, log))
            path = log if path != log and self.claims(path.replace("{role}", "x")) else path
            update["mirror"] = self.mirror.model_copy(update={"path": path})
        made = self.model_copy(update=update)
        made._log, made._family = log, self.name
        return made

    @property
    def notify(self) -> str:
        """The Pub/Sub channel on which a mapping's stream announces that entries were added."""
        return self.stream.notify or f"{self.stream.key}:notify"

    @property
    def files(self) -> str:
        """The glob of a mapping's files; for a folder of artifacts all files in the folder, at any depth."""
        path = self.source.path
        return f"{path}**/*" if path.endswith("/") else path

    @property
    def of_json(self) -> bool:
        """Whether each line of a mapping's files is an object in JSON."""
        return self.format.codec == "jsonl"

    @property
    def noun(self) -> str:
        """The word for what holds one message of a mapping: line, chunk, value, artifact or file."""
        return self.kind.noun

    @property
    def written(self) -> str:
        """The path, or the glob, of the files that the bridge writes for a mapping, values as x; empty: none."""
        if self.kind.latest:
            return self.source.path if self.source.owner == "redis" else ""
        if self.mirror is None:
            return ""
        name = f"/{self.mirror.name}" if self.kind.whole_files else ""
        return re.sub(r"\{\w+\}", "x", self.mirror.path + name)

    def claims(self, path: str) -> bool:
        """Whether a mapping would read a file of this relative path, or some files that this glob matches."""
        if any(fnmatchcase(path, p) or fnmatchcase(p, path) for p in (self.source.path, *self.source.rotated)):
            return True
        name = os.fsencode(path)
        unwanted = any(translated(excluded).fullmatch(name) for excluded in self.source.exclude)
        return not unwanted and translated(self.files).fullmatch(name) is not None

    def codec(self, source_name: str) -> Codec:
        """Returns a mapping's codec for one source; `source_name` is the source's path below the root."""
        if self.format.codec == "document":
            return self.document(source_name)
        if self.kind.lines and self._alike:
            return self._of_all_sources
        return self._made_codec(source_name)

    @cached_property
    def _alike(self) -> bool:
        """Whether a source's name tells nothing of its messages, so that one codec serves all sources of a mapping."""
        return self._rules("a/b.c") == self._rules("d/e.f")

    @cached_property
    def _of_all_sources(self) -> Codec:
        return self._made_codec("x")

    def _made_codec(self, source_name: str) -> Codec:
        rules, clock = self._rules(source_name), self._clock
        if self.kind.chunked:
            return ChunkCodec(rules)
        if self.kind.announced:
            return ArtifactCodec(rules)
        if self.kind.latest:
            return self.value(source_name, 0)
        escape = self.mirror is None or self.mirror.newline == "escape"
        codec: Codec
        if self.format.codec == "delimited":
            codec = delimited.DelimitedCodec(self.format.delimiter or "", self.format.columns, rules, clock, escape)
        elif self.format.codec == "regex":
            codec = regexp.RegexCodec(self.format.pattern or "", rules, clock)
        else:
            codec = jsonl.JsonlCodec(rules, clock)
        if self.mirror is not None and self.mirror.template is not None:
            codec = TemplateCodec(codec, self.mirror.template, escape)
        return MultilineCodec(codec) if self.format.continuation else codec

    def value(self, path: str, written_ns: int) -> TextDocumentCodec:
        """Makes a mapping's codec for a state file, which holds a latest value."""
        rules = self._rules(path)
        for name in ("timestamp", "data"):
            if name in rules:
                raise ConfigError(f"message.{name} means nothing for a state: it is the time of writing, and the file")
        rules.setdefault("type", FieldRule(const=b"state"))
        return text_of(Path(path).name, rules, None, iso_time(written_ns), clock_for("iso8601", "UTC"))

    def document(self, path: str, written_ns: int = 0) -> JsonDocumentCodec | TextDocumentCodec:
        """Returns a mapping's codec for one whole file, by the file's path below the root.

        `written_ns` is when the file was written; it is the time of the message where nothing else tells one.
        """
        if self._same_document is not None:
            return self._same_document
        rules = self._rules(path)
        written, clock = iso_time(written_ns), self._clock
        if self.format.pattern is not None or not self._by_pointers:
            name = Path(path).name
            return text_of(
                name, rules, self.format.pattern, written, clock if self._tells_time else clock_for("iso8601", "UTC")
            )
        if "timestamp" not in rules:
            rules["timestamp"], clock = FieldRule(const=written), clock_for("iso8601", "UTC")
        identity = self.message.id.rule(path) if self.message.id is not None else None
        return JsonDocumentCodec(rules, clock, identity)

    def _rules(self, path: str) -> dict[str, FieldRule]:
        rules = {name: section.rule(path) for name, section in self._fields.items()}
        if self._goes_on and (rule := rules.get("timestamp")) is not None and rule.default is None:
            rules["timestamp"] = replace(rule, default=b"")
        return rules

    @property
    def _goes_on(self) -> bool:
        """Whether a line whose time is missing takes its place in time from the line before it."""
        return self.format.no_time == "previous"

    @cached_property
    def _fields(self) -> dict[str, Any]:
        names = ("role", "timestamp", "type", "data")
        return {name: section for name in names if (section := getattr(self.message, name)) is not None}

    @cached_property
    def _clock(self) -> Clock:
        clock = clock_for(self.format.timestamp, self.format.timezone, self.format.zones)
        return or_none(clock) if self._goes_on else clock

    @cached_property
    def _by_pointers(self) -> bool:
        return self.message.id is not None or any(section.all_pointers for section in self._fields.values())

    @cached_property
    def _tells_time(self) -> bool:
        return "timestamp" in self._fields or "(?P<timestamp>" in (self.format.pattern or "")

    @cached_property
    def _same_document(self) -> JsonDocumentCodec | None:
        """The one codec for all whole files of a mapping, where no file's name or time matters; else None."""
        named = any(section.name is not None for section in self._fields.values())
        if self.format.pattern is not None or named or not self._by_pointers or "timestamp" not in self._fields:
            return None
        rules = self._rules("x")
        return JsonDocumentCodec(rules, self._clock, self.message.id.rule("x") if self.message.id is not None else None)


def shipped_dir() -> Path:
    """Returns the folder of the shipped mappings: in the wheel, or beside the package in a checkout."""
    ours = Path(__file__).parent.parent
    packaged = ours / "_mappings"
    return packaged if packaged.is_dir() else ours.parent / "mappings"


def shipped_names() -> list[str]:
    """Lists the names of the shipped mappings, sorted."""
    return sorted(path.stem for path in shipped_dir().glob("*.toml"))


def mapping_path(name: str, base: Path) -> Path:
    """Finds a mapping's file: a shipped mapping's by name, or the file that `name` is a path to.

    Raises ConfigError when there is neither.
    """
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
    """Reads the tables of a mapping's file as they are written, not validated. Raises ConfigError."""
    path = mapping_path(name, base)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read as TOML: {error}", where=str(path)) from None


def load_mapping(name: str, base: Path) -> Mapping:
    """Loads and validates a mapping: a shipped one by name, or one by path relative to `base`. Raises ConfigError."""
    return validated(Mapping, read_mapping(name, base), str(mapping_path(name, base)))
