"""The command `bridge journal`: lists who changed what and when, such as switches, repairs and retirements."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any

import click

from bridge.cli.common import Options, emit, verb


@click.command("journal", short_help="List what was switched and repaired, by whom and when")
@click.option("-n", "count", type=click.IntRange(min=1), default=100, show_default=True, help="How many, at most")
@verb
def command(options: Options, count: int) -> None:
    """List who changed what, when and where, and on what evidence: switches, repairs, retirement; the latest last."""
    from bridge.cli.screen import console, safe
    from bridge.ledger.journal import journal
    from bridge.ledger.store import Ledger

    parts, found = options.parts(), list[dict[str, Any]]()
    for path in (part.as_written().state_dir / "ledger.db" for part in parts):
        if len(parts) == 1 or path.exists():
            with closing(Ledger(path)) as ledger:
                found += journal(ledger, count)
    found = sorted(found, key=lambda row: float(row["at"]))[-count:]
    if options.as_json:
        emit(found)
        return
    out = console()
    for row in found:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["at"]))
        out.print(safe(f"{when}  {row['who']}  {row['what']}  {row['stream']}: {_said(row)}"), soft_wrap=True)
    if not found:
        click.echo("nothing yet")


def _said(row: dict[str, Any]) -> str:
    """Says in words the facts of one record of the journal; `--json` has all facts."""
    facts = row["facts"]
    if row["what"] not in ("cutover", "rollback"):
        plain = {name: fact for name, fact in facts.items() if fact is not None and not isinstance(fact, dict | list)}
        said = ", ".join(f"{name} {value}" for name, value in plain.items() if name != "stream")
        said = said or f"{len(facts.get('keys', ()))} keys"
        return said + (f"; FORCED although {'; '.join(facts['forced'])}" if facts.get("forced") else "")
    where = {"file": "the files", "redis": "Redis", "both": "both sides itself"}[facts["to"]]
    said = f"{facts['component']} {facts['side']} {'from' if facts['side'] == 'reads' else 'to'} {where}"
    if facts.get("before"):
        said += f", {facts['before']} is {facts['after']}"
    if facts.get("again"):
        said += f", {facts['again']} may be read again"
    if facts.get("forced"):
        said += f"; FORCED although {'; '.join(facts['forced'])}"
    proof = facts.get("parity")
    said += f"; parity {proof['verdict']} ({proof['digest'][:12]})" if proof else "; never compared"
    said += f"; {facts['reason']}" if facts.get("reason") else ""
    if facts["state"] != "done":
        said += f"; {facts['state']}{': ' + facts['why'] if facts.get('why') else ''}"
    return said
