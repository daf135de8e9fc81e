"""The inventory of mappings' files: their accounts for a caller that only looks, and what a person says of a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import replace

from bridge.core.config import Settings
from bridge.core.errors import ConfigError, SourceError
from bridge.core.failpoints import failpoint
from bridge.core.mapping import Mapping
from bridge.core.state_directory import lock_holder
from bridge.engine.account.accountant import Accountant
from bridge.engine.account.standing import ACTIVE, ASIDE, LINK, PIECE, WAITING, FilesAccount, FileStanding
from bridge.files.generation import open_regular
from bridge.files.piece_age import tells_age
from bridge.files.piece_times import first_and_last
from bridge.kinds.log.edit_summary import in_words
from bridge.kinds.mapping_context import MappingContext, catalog_of_all
from bridge.ledger import spool_messages
from bridge.ledger.edits import NEW, rewrites_of
from bridge.ledger.file_standings import (
    LATE,
    LEFT,
    UNACCOUNTED,
    FileRecord,
    forget_piece,
    remembered_pieces,
    save_piece,
)
from bridge.ledger.journal import note
from bridge.ledger.sources import sources_of
from bridge.ledger.store import Ledger


def accounts(settings: Settings, mappings: Sequence[Mapping], clock: Callable[[], float]) -> dict[str, FilesAccount]:
    """Makes the inventory of the files of some mappings: the account of each mapping, by its name.

    Of a mapping with many streams there is also an account of the files that belong to none of them. Raises
    SourceError, LedgerError.
    """
    path = settings.state_dir / "ledger.db"
    ledger = Ledger(path) if path.exists() else None
    running = lock_holder(settings.state_dir).startswith("bridge run ")
    found = {}
    try:
        for mapping in mappings:
            with closing(MappingContext(mapping, settings)) as shared:
                found[mapping.name] = account_of(shared, ledger, clock, running=running)
        for name in {mapping.family for mapping in mappings} & settings.families.keys():
            found[name] = _of_no_stream(settings.families[name], settings)
    finally:
        if ledger is not None:
            ledger.close()
    return found


def _of_no_stream(mapping: Mapping, settings: Settings) -> FilesAccount:
    """Makes the account of the files of a mapping with many streams that are in none: set aside, or not known."""
    catalog, account = catalog_of_all(mapping, settings), FilesAccount()
    catalog.sweep()
    for listed in catalog.named.values():
        if listed.log is None and listed.aside and listed.aside != LEFT:
            size = listed.facts[2] if listed.facts is not None else 0
            account.pieces.append(FileStanding(listed.name, ASIDE, bytes=size, why=listed.aside, facts=listed.facts))
    for path in sorted(catalog.patterns.found_below(settings.root)):
        name = str(path.relative_to(settings.root))
        if name not in catalog.named and path.is_file():
            size, why = path.stat().st_size, "the mapping names it, and its catalog does not know it"
            account.pieces.append(FileStanding(name, UNACCOUNTED, name, None, size, size, why))
    return account


def together(accounts: Sequence[FilesAccount]) -> FilesAccount:
    """Adds the accounts of one mapping's streams up to one account."""
    whole = FilesAccount()
    for account in accounts:
        whole.pieces += account.pieces
        whole.gone += account.gone
        whole.acknowledged += account.acknowledged
        whole.logs |= account.logs
        whole.unsettled |= account.unsettled
    return whole


def dated(settings: Settings, mapping: Mapping, pieces: Sequence[FileStanding]) -> list[FileStanding]:
    """Adds to the files of an inventory the times of each file's first and last message, as far as its lines tell.

    A file that cannot be read, or whose messages are not lines, has none.
    """
    found = []
    for piece in pieces:
        span = None
        if mapping.kind.lines and piece.bytes and piece.standing not in (ASIDE, LINK):
            codec = mapping.codec(piece.log or piece.path)
            with suppress(SourceError):
                file = open_regular(settings.root / piece.path)
                if file is not None:
                    span = first_and_last(file, lambda lines, codec=codec: codec.decode(lines).times)  # type: ignore[misc]
                    file.close()
        found.append(replace(piece, span=span))
    return found


def account_of(
    shared: MappingContext, ledger: Ledger | None, clock: Callable[[], float], *, running: bool
) -> FilesAccount:
    """Makes the account of one mapping's files for the inventory, of whatever kind. Raises SourceError, LedgerError."""
    if shared.folder is not None or shared.values is not None:
        return _of_folder(shared, ledger)
    memories = sources_of(ledger, shared.mapping.stream.key) if ledger is not None else {}
    stored = {name: memory.stored for name, memory in memories.items()}
    account = Accountant(shared, ledger, clock).whole(stored, running=running)
    edits = rewrites_of(ledger, shared.mapping.stream.key) if ledger is not None else []
    said = {(edit.name, edit.generation): in_words(edit, clock()) for edit in edits if edit.how != NEW or edit.again}
    for at, piece in enumerate(account.pieces):
        if why := said.get((piece.log, piece.generation or 0), ""):
            account.pieces[at] = replace(piece, why=f"{why}; {piece.why}" if piece.why else why)
    return account


def _of_folder(shared: MappingContext, ledger: Ledger | None) -> FilesAccount:
    """Makes the account of a mapping's folder for the inventory, where each message, value or artifact is a file."""
    folder, account = shared.folder or shared.values, FilesAccount()
    if folder is None:
        raise AssertionError("no folder")
    stream, path = shared.mapping.stream.key, shared.mapping.source.path
    for some in folder.scan():
        known = spool_messages.files_known(ledger, stream, [file.name for file in some]) if ledger is not None else {}
        for file in some:
            size, name = file.facts.size, os.fsdecode(file.name)
            carried = shared.folder is None or (file.name in known and known[file.name][0] == file.facts)
            standing = PIECE if carried else WAITING
            account.pieces.append(FileStanding(name, standing, path, None, size, 0 if carried else size))
    return account


def leave(settings: Settings, mappings: Sequence[Mapping], path: str, why: str, who: str, at: float) -> str:
    """Sets a file of the inventory aside for good, as a person says (`--leave`); returns in words what was done.

    The journal has it. The file is set aside by its path, or by its inode, where its name goes from file to file.
    Raises ConfigError: no mapping names the file, or it is being carried; LedgerError.
    """
    with closing(Ledger(settings.state_dir / "ledger.db", create=True)) as ledger:
        for mapping in mappings:
            if not mapping.kind.appended:
                continue
            with closing(MappingContext(mapping, settings)) as shared:
                found = account_of(shared, ledger, lambda: at, running=True)
                piece = next((piece for piece in found.pieces if piece.path == path), None)
                if piece is None:
                    continue
                if piece.standing in (ACTIVE, PIECE) and piece.generation is not None:
                    hint = "name it in source.exclude, and start the bridge again"
                    raise ConfigError(
                        f"is carried, as generation {piece.generation} of {piece.log}", where=path, hint=hint
                    )
                bound = piece.facts if tells_age(path.rpartition("/")[2]) else None
                with ledger.transaction():
                    save_piece(ledger, mapping.stream.key, FileRecord(path, LEFT, why, at, bound, piece.bytes, who))
                    note(ledger, at, who, "leave", mapping.stream.key, {"path": path, "reason": why})
                which = "this very file, whatever its name becomes" if bound else "whatever lies there"
                return f"{path} is left alone from now on ({which}); `bridge files --take {path}` undoes it"
    hint = "`bridge files` shows what the mappings name; a path is told from the root"
    raise ConfigError("is no file that a mapping names", where=path, hint=hint)


def bring_over(shared: MappingContext, ledger: Ledger, found: Sequence[FileStanding], who: str, at: float) -> None:
    """Notes in the ledger that unaccounted files of the inventory are to be brought over, late and once.

    The next run carries each of them as a log by itself. Raises LedgerError.
    """
    failpoint("repair.late.before")
    with ledger.transaction():
        for piece in found:
            said = FileRecord(piece.path, LATE, piece.why, at, piece.facts, piece.bytes, who)
            save_piece(ledger, shared.mapping.stream.key, said)
            note(ledger, at, who, "bring over", shared.mapping.stream.key, {"path": piece.path, "bytes": piece.bytes})
    failpoint("repair.late.after")


def take(settings: Settings, mappings: Sequence[Mapping], path: str, why: str, who: str, at: float) -> str:
    """Takes a file of the inventory back that a person had set aside with `leave`; returns in words what was done.

    Raises ConfigError: nobody set the file aside; LedgerError.
    """
    with closing(Ledger(settings.state_dir / "ledger.db", create=True)) as ledger:
        for mapping in mappings:
            before = remembered_pieces(ledger, mapping.stream.key).get(path)
            if before is not None and before.standing == LEFT:
                with ledger.transaction():
                    forget_piece(ledger, mapping.stream.key, path)
                    note(ledger, at, who, "take", mapping.stream.key, {"path": path, "reason": why})
                return f"{path} is the mapping's again: what is in it is carried, or `bridge files` says why not"
    raise ConfigError("was not left alone by anybody", where=path, hint="`bridge files` shows what was")
