"""The traits of each kind of source, by which other code treats a kind without asking for its name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KindTraits:
    """The traits of one kind of source, such as log, spool or state.

    `noun`: what holds one of its messages; `codecs`: the codecs it may have.
    """

    noun: str
    codecs: tuple[str | None, ...]
    lines: bool = False
    """Whether messages are lines in an order: a component has a position in them, and the mirror appends to them."""
    appended: bool = False
    """Whether a source is a file that programs append to, and that may be rotated."""
    whole_files: bool = False
    """Whether each file holds one message, value or artifact."""
    latest: bool = False
    """Whether a file holds a latest value, which stands in a Redis hash and has one side that owns it."""
    announced: bool = False
    """Whether a file is announced in the stream, by path and digest, and its content is not carried."""
    chunked: bool = False
    """Whether the bytes that were appended in one go are one message, however many lines they hold."""
    mirrored: bool = False
    """Whether a mapping of this kind may have a `[mirror]`."""


KINDS = {
    "log": KindTraits("line", ("delimited", "jsonl", "regex"), lines=True, appended=True, mirrored=True),
    "spool": KindTraits("file", ("document",), whole_files=True, mirrored=True),
    "context": KindTraits("chunk", (None,), appended=True, chunked=True),
    "state": KindTraits("value", (None,), whole_files=True, latest=True),
    "artifacts": KindTraits("artifact", (None,), whole_files=True, announced=True),
}
"""The traits of each kind that `source.kind` may name."""
