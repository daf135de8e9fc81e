"""Prints commands' results for people on the screen: as wide as the terminal, plain when piped, all text made safe."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

PLAIN_WIDTH = 200
"""Columns of an output that is no terminal, so that nothing is folded there; COLUMNS overrides it."""

STYLES = {"good": "bold green", "behind": "bold yellow", "idle": "bold cyan", "bad": "bold red"}
"""The style on the screen for each level of a headline."""


LEVELS = {"equal": "good", "differs": "bad", "inconclusive": "behind"}
"""The level of each verdict of parity."""


def console(*, stderr: bool = False) -> Console:
    """Makes a rich console for stdout or stderr, as wide as the screen, or PLAIN_WIDTH columns when piped."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or os.environ.get("COLUMNS") else PLAIN_WIDTH
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def show(out: Console, what: RenderableType) -> None:
    """Prints a text or a table on a console; where that is no screen, without blanks at the ends of rows."""
    if out.is_terminal:
        out.print(what)
        return
    with out.capture() as captured:
        out.print(what)
    out.file.write("".join(f"{row.rstrip()}\n" for row in captured.get().splitlines()))
    out.file.flush()


def safe(text: str, style: str = "") -> Text:
    """Makes untrusted text safe for the screen: escapes control characters, and takes nothing of it as markup."""
    from rich.text import Text

    return Text("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text), style=style)
