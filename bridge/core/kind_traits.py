"""The traits of the kinds of sources: what a kind means for whoever is not of that kind, and asks for no name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KindTraits:
    """The traits of one kind of source. `noun`: what holds one of its messages; `codecs`: the codecs it may have."""

    noun: str
    codecs: tuple[str | None, ...]
    lines: bool = False
    """Whether messages are lines in an order: a component has a position in them, and the mirror appends to them."""
    appended: bool = False
    """Whether a source is one file that programs append to, and that may be rotated."""
    whole_files: bool = False
    """Whether each file holds one message, value or artifact."""
    latest: bool = False
    """Whether a file holds a latest value, which stands in a Redis hash and has one side that owns it."""
    announced: bool = False
    """Whether a file is told of in the stream, by path and digest, and not carried."""
    chunked: bool = False
    """Whether what was appended in one go is a message, whatever its lines are."""
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
