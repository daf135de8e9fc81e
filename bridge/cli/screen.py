"""Printing for people: as wide as the terminal, whole and plain when piped, and never untrusted text as it is."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

PLAIN_WIDTH = 200
"""Columns of what is not a terminal, so that nothing is folded there; COLUMNS says otherwise."""

STYLES = {"good": "bold green", "behind": "bold yellow", "idle": "bold cyan", "bad": "bold red"}
"""For the levels of a headline."""


def console(*, stderr: bool = False) -> Console:
    """A console for stdout or stderr."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or os.environ.get("COLUMNS") else PLAIN_WIDTH
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def show(out: Console, what: RenderableType) -> None:
    """Prints it; where there is no terminal without the blanks that fill up a table's rows."""
    if out.is_terminal:
        out.print(what)
        return
    with out.capture() as captured:
        out.print(what)
    out.file.write("".join(f"{row.rstrip()}\n" for row in captured.get().splitlines()))
    out.file.flush()


def safe(text: str, style: str = "") -> Text:
    """Untrusted text: control characters escaped, nothing of it taken as markup."""
    from rich.text import Text

    return Text("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text), style=style)
