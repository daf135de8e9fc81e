"""Prints for people what `bridge parity` found: each mapping's verdict, the differences, and what to try."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bridge.parity.all_hosts import HostProof
    from bridge.parity.result import ParityResult

LISTED_DIFFERENCES = 20
"""Most differences that `bridge parity` prints."""

FEW = 5
"""Streams of one mapping that parity tells of each by itself; of more the equal ones are told of together."""


def print_results(results: list[ParityResult], families: dict[str, str]) -> None:
    """Prints the results of parity, and the verdict of all; `families`: the mapping of each stream, by its name."""
    from bridge.cli.screen import LEVELS, STYLES, console, safe
    from bridge.core.model import shown
    from bridge.core.wording import counted
    from bridge.parity.report import (
        WORDS,
        counts_in_words,
        facts,
        sides,
        verdict_in_words,
        what_to_try,
        where,
        without,
    )
    from bridge.parity.result import verdict_of_all

    out = console()

    def say(text: str, style: str = "") -> None:
        out.print(safe(text, style), soft_wrap=not out.is_terminal)

    equal = [result for result in results if result.verdict == "equal" and not result.warnings()]
    many = Counter(families[result.mapping] for result in equal if families[result.mapping] != result.mapping)
    for family, count in many.items():
        if count > FEW:
            mine = [result for result in equal if families[result.mapping] == family]
            compared, born = sum(r.tally.compared for r in mine), sum(r.tally.file_born for r in mine)
            flying = sum(result.tally.in_flight for result in mine)
            say(f"{family} → {counted(count, 'stream')}", "bold")
            said = f"  Equal: {counted(compared, 'message')}, each once on both sides, in order within its stream"
            say(said, STYLES[LEVELS["equal"]])
            say(f"  {born:,} file-born, {compared - born:,} Redis-born{f'; {flying:,} in flight' if flying else ''}")
            for fact, streams in Counter(fact for r in mine for fact in facts(r, time.time())).most_common():
                if not fact.startswith("up to ") and " file-born, " not in fact and " in flight" not in fact:
                    say(f"  {fact}" + (f" (in {counted(streams, 'stream')})" if streams < count else ""))
            say("")
    told = {result.mapping for result in equal if many[families[result.mapping]] > FEW}
    for result in (result for result in results if result.mapping not in told):
        say(f"{result.mapping} → {result.stream}", "bold")
        say(f"  {verdict_in_words(result)}", STYLES[LEVELS[result.verdict]])
        for warning in result.warnings():
            say(f"  {warning}", STYLES["bad"])
        for fact in facts(result, time.time()):
            say(f"  {fact}")
        if result.verdict == "differs":
            say(f"  {counts_in_words(result)}")
        for difference in result.tally.differences[:LISTED_DIFFERENCES]:
            say("")
            say(f"  {WORDS[difference.kind]}: {where(difference)}", "bold")
            for name, raw in zip(("file ", "Redis"), sides(difference), strict=True):
                say(f"    {name}  {without(difference) if raw is None else shown(raw, 500)}")
        more = sum(result.counts().values()) - LISTED_DIFFERENCES
        if more > 0:
            say("")
            say(f"  … and {counted(more, 'difference')} more: `--json` or `--html FILE` shows them")
        say("")
    whole = verdict_of_all(results)
    lost = any(parity_result.lost for parity_result in results)
    hint = f": {what_to_try(results)}" if whole == "differs" and not lost else ""
    say(f"{whole.upper()}{hint}", STYLES[LEVELS[whole]])


def print_hosts(proofs: list[HostProof], verdict: str) -> None:
    """Prints what the bridges of all hosts have proved (`parity --all-hosts`), and the verdict of all together."""
    from rich.table import Table

    from bridge.cli.screen import LEVELS, STYLES, console, safe, show
    from bridge.core.wording import counted, duration
    from bridge.parity.all_hosts import MOST_SINCE

    out, now = console(), time.time()
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="dim")
    for name in ("host", "bridge", "stream", "verdict", "compared", "proved", "entries since"):
        table.add_column(name, overflow="fold", justify="right" if name in ("compared", "entries since") else "left")
    for proof in proofs:
        said = f"{proof.verdict}: {proof.why}" if proof.why else proof.verdict
        said += f", {counted(proof.differences, 'difference')}" if proof.differences else ""
        since = f"{proof.since:,}{' or more' if proof.since == MOST_SINCE else ''}" if proof.at is not None else ""
        row = [proof.host, proof.instance, proof.stream, said, f"{proof.compared:,}" if proof.at is not None else "",
               f"{duration(max(0.0, now - proof.at))} ago" if proof.at is not None else "", since]  # fmt: skip
        table.add_row(*map(safe, row))
    show(out, table)
    out.print(safe(verdict.upper(), STYLES[LEVELS[verdict]]))
