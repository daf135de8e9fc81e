"""The command `bridge doctor`: checks the server, this machine and the bridge, and says what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bridge.cli.common import Options, emit, verb
from bridge.core.wording import counted

if TYPE_CHECKING:
    from rich.table import Table

    from bridge.admin.doctor.finding import Finding

SIGNS = {"good": ("ok", "green"), "note": ("note", "yellow"), "bad": ("BAD", "bold red"), "unknown": ("?", "cyan")}


@click.command("doctor", short_help="Look for what is wrong, and say what to do")
@verb
def command(options: Options) -> int:
    """Look at the server, this machine and the bridge itself: one line a check, with what was seen and what to do.

    Nothing is started and nothing is changed. Exits 3 when something is BAD: messages are at risk, or it will stop.
    """
    from bridge.admin.doctor.examine import examine
    from bridge.cli.screen import console, show

    parts = [part.settings() for part in options.parts()]
    options.log(parts[0].log_format)
    findings = examine(options.together() if len(parts) > 1 else parts[0], parts)
    bad = [finding for finding in findings if finding.verdict == "bad"]
    if options.as_json:
        emit({"healthy": not bad, "checks": [finding.to_json() for finding in findings]})
        return 3 if bad else 0
    out = console()
    show(out, _table(findings))
    notes = sum(finding.verdict == "note" for finding in findings)
    said = f"{counted(len(bad), 'fault')}, {counted(notes, 'note')}, {counted(len(findings), 'check')}"
    click.echo(f"\n{said}{': mend what is BAD first' if bad else ': nothing is wrong'}")
    return 3 if bad else 0


def _table(findings: list[Finding]) -> Table:
    from rich.table import Table

    from bridge.cli.screen import safe

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        sign, style = SIGNS[finding.verdict]
        table.add_row(safe(sign, style), safe(finding.check), safe(finding.evidence))
        if finding.hint:
            table.add_row("", "", safe(f"try: {finding.hint}", "dim"))
    return table
