"""The part of `bridge repair` for unaccounted files: brings them over late, marked so, each message once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.common import complain, who
from bridge.core.wording import counted

if TYPE_CHECKING:
    from bridge.engine.account.standing import FileStanding
    from bridge.engine.once import OnceReport
    from bridge.kinds.mapping_context import MappingContext
    from bridge.ledger.store import Ledger
    from bridge.streams.connect import Connection


class LateFiles:
    """Repairs the unaccounted files of one mapping: brings them over late, and notes those that were edited."""

    def __init__(self, shared: MappingContext, ledger: Ledger, connection: Connection) -> None:
        from bridge.engine.account.edited_piece import edited_piece
        from bridge.engine.account.inventory import account_of

        self.shared = shared
        self._ledger = ledger
        account = account_of(shared, ledger, time.time, running=False)
        late = {*shared.catalog.late.values()}  # files of which an earlier repair did not carry all
        begun = [piece for piece in account.pieces if piece.log in late and piece.behind]
        edited = [(piece, edited_piece(connection, shared, ledger, piece)) for piece in account.unaccounted]
        self.found: list[FileStanding] = [piece for piece, of in edited if of is None] + begun
        self.edited = [of for _, of in edited if of is not None]
        """Unaccounted files that are finished generations, edited since: most of their lines are in the stream."""
        self.done: OnceReport | None = None
        self.gone = 0
        """How many entries were removed before they were mirrored, and nobody had acknowledged until now."""

    @property
    def left(self) -> int:
        """How many unaccounted files the repair leaves to a person, and how many errors kept files from coming over."""
        return (len(self.done.errors) if self.done is not None else 0) + len(self.edited)

    def execute(self) -> None:
        """Carries the unaccounted files late to the stream, after the entries that are there. Raises LedgerError."""
        from threading import Event

        from bridge.engine.account.edited_piece import note_edited
        from bridge.engine.account.inventory import bring_over
        from bridge.engine.once import bring_over as carry
        from bridge.ledger.file_standings import UNACCOUNTED
        from bridge.ledger.journal import note
        from bridge.ledger.sources import acknowledge_gone

        self.gone = acknowledge_gone(self._ledger, self.shared.mapping.stream.key)
        if self.gone:
            note(self._ledger, time.time(), who(), "acknowledged", self.shared.mapping.stream.key,
                 {"gone_before_mirrored": self.gone})  # fmt: skip
        for of in self.edited:
            note_edited(self._ledger, self.shared.mapping.stream.key, of, who(), time.time())
        if self.found:
            fresh = [piece for piece in self.found if piece.standing == UNACCOUNTED and piece.generation is None]
            bring_over(self.shared, self._ledger, fresh, who(), time.time())
            self.done = carry(self.shared.settings, self.shared.mapping, Event())

    def to_json(self) -> dict[str, Any]:
        """Makes a JSON object of the unaccounted files that a repair brings over, for `--json`."""
        done = self.done.forwarded if self.done is not None else 0
        edited = [
            {"path": of.piece.path, "generation": of.generation, "lines": of.total, "in_stream": of.passed}
            for of in self.edited
        ]
        return {"files": [piece.to_json() for piece in self.found], "brought_over": done, "edited": edited}

    def print(self) -> None:
        """Prints for people which unaccounted files the repair brings over late, or would bring over."""
        name, stream = self.shared.mapping.name, self.shared.mapping.stream.key
        for piece in self.found:
            verb = "brought over" if self.done is not None else "would bring over"
            click.echo(
                f"{name}: {verb} {counted(piece.behind, 'byte')} of {piece.path} to {stream}, late ({piece.why})"
            )
        for of in self.edited:
            click.echo(
                f"{name}: {of.piece.path} is generation {of.generation} of {of.piece.log}, edited since it was carried:"
                f" {of.passed:,} of its {counted(of.total, self.shared.mapping.noun)} stand in the stream;"
                " it is not brought over. Put its old bytes back from a copy; parity names what was changed"
            )
        if self.gone:
            what = counted(self.gone, "entry", "entries")
            click.echo(
                f"{name}: {what} had been removed before the mirror came: no file will hold them; noted as known"
            )
        if self.done is not None:
            click.echo(f"  {counted(self.done.forwarded, self.shared.mapping.noun)} went over, and are marked late")
            for error in self.done.errors:
                complain(error)
        elif self.found:
            click.echo("  nothing was changed; `bridge repair --execute` does it, while the bridge is stopped;"
                       " `bridge files --leave PATH` says that a file is none of the mapping's")  # fmt: skip
