"""The part of `bridge repair` for a retired mapping: brings over, late and once, what others wrote to its files."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.common import complain, who
from bridge.core.wording import counted

if TYPE_CHECKING:
    from bridge.engine.once import OnceReport
    from bridge.engine.retired_files import RetiredMapping
    from bridge.kinds.mapping_context import MappingContext
    from bridge.ledger.store import Ledger
    from bridge.streams.connect import Connection


class DeadFiles:
    """Repairs one retired mapping: brings over what others wrote to its files after it was retired."""

    def __init__(
        self, shared: MappingContext, ledger: Ledger | None, connection: Connection, ended: RetiredMapping, *,
        execute: bool,
    ) -> None:  # fmt: skip
        self.shared = shared
        self._ledger = ledger
        self._connection = connection
        self._ended = ended
        self._execute = execute
        self.done: OnceReport | None = None
        self.adopted = False
        self.kept = ""
        """Why nothing is brought over from the retired mapping's files; empty: it can be."""

    @property
    def left(self) -> int:
        """How much the repair leaves wrong with a retired mapping: 0 where all was brought over, or can be."""
        return len(self.done.errors) if self.done is not None else int(bool(self.kept))

    def run(self) -> None:
        """Repairs a retired mapping with `--execute`: brings over what others wrote to its files since.

        Without `--execute` only checks whether it can. Raises BridgeError, OSError.
        """
        from threading import Event

        from bridge.admin.retire.end_mapping import retell
        from bridge.admin.retire.purge import purge
        from bridge.cutover.adopt_retirement import adopt
        from bridge.engine.once import bring_over
        from bridge.ledger.journal import note
        from bridge.streams.retired import ending_of

        shared, ledger = self.shared, self._ledger
        settings, mapping = shared.settings, shared.mapping
        self.kept = self._hindered()
        if not self._execute or self.kept or ledger is None:
            return
        ending = ending_of(self._connection, shared.keys)
        if not self._known() and ending is not None:
            adopt(shared, ledger, self._connection, ending, who())
            self.adopted = True
        if not any(behind.messages or behind.more for behind in self._ended.written.values()):
            return
        purged = not self._connection.call("EXISTS", shared.keys.meta)
        self.done = bring_over(settings, mapping, Event())
        facts = {"late": self._counts(), "sent": self.done.forwarded}
        note(ledger, time.time(), who(), "repair", mapping.stream.key, facts)
        retell(settings, mapping, ledger, self._connection)
        if purged and not self.done.errors:
            purge(settings, mapping, ledger, self._connection, who(), really=True)

    def _hindered(self) -> str:
        """Says why the repair cannot bring over what others wrote to a retired mapping's files; empty: it can."""
        from bridge.continuity.lost_entries import what_was_lost
        from bridge.ledger.sources import stream_memory
        from bridge.streams.reader import stream_info

        shared, written = self.shared, self._ended.written
        if shared.values is not None and written:
            names = ", ".join(written)
            return (
                f"{names}: which value is the later one nobody can tell: write it to Redis by hand, or remove the file"
            )
        if shared.folder is not None and not self._known():
            said = "the ledger that knew its files is lost, and nobody else can tell which of them were carried"
            return f"{said}: put it back from a copy, or write what is missing to Redis"
        memory = stream_memory(self._ledger, shared.mapping.stream.key) if self._ledger is not None else None
        lost = what_was_lost(memory, {}, stream_info(self._connection, shared.keys.stream), None)
        if lost:
            return f"the stream is not the one that was retired ({lost}): `bridge retire` has left all of it as files"
        return ""

    def _counts(self) -> dict[str, int]:
        """Counts for the repair the messages that others wrote to each source of the retired mapping."""
        return {name: behind.messages for name, behind in self._ended.written.items()}

    def _known(self) -> bool:
        """Whether the ledger of this state directory knows that the mapping under repair is retired."""
        from bridge.ledger.retired import retired

        return self._ledger is not None and self.shared.mapping.stream.key in retired(self._ledger)

    def to_json(self) -> dict[str, Any]:
        """Makes a JSON object of the repair of one retired mapping, for `--json`."""
        return {
            "mapping": self.shared.mapping.name, "executed": self._execute and (self.done is not None or self.adopted),
            "retired": self._ended.at, "written": self._counts(),
            "brought_over": self.done.forwarded if self.done is not None else 0,
            "quarantined": self.done.quarantined if self.done is not None else 0, "kept": self.kept or None,
        }  # fmt: skip

    def print(self) -> None:
        """Prints for people what the repair did to the files of a retired mapping, or would do."""
        name, noun = self.shared.mapping.name, self.shared.mapping.noun
        if self.adopted:
            click.echo(f"{name}: its ledger was lost, and knows again that it is retired")
        if self.kept:
            click.echo(f"{name}: {self.kept}")
            return
        written = {file: behind for file, behind in self._ended.written.items() if behind.messages or behind.more}
        if not written:
            click.echo(f"{name}: retired, and nobody has written to its files since")
        for file, behind in written.items():
            verb = "brought over" if self.done is not None else "would bring over"
            click.echo(
                f"{name}: {verb} {counted(behind.messages, noun)} of {file} to {self.shared.mapping.stream.key}, late"
            )
        if self.done is not None:
            if self.done.quarantined:
                click.echo(f"  {counted(self.done.quarantined, 'message')} in quarantine: `bridge quarantine list`")
            for error in self.done.errors:
                complain(error)
        elif written:
            click.echo("  nothing was changed; `bridge repair --execute` does it, while the bridge is stopped")
