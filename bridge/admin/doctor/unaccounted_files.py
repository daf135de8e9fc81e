"""The doctor's check for unaccounted files: whether the account explains every byte of the files of all mappings."""

from __future__ import annotations

import time
from contextlib import closing

from bridge.admin.doctor.finding import Finding, Judgement, worst
from bridge.core.config import Settings
from bridge.core.wording import counted
from bridge.engine.account.inventory import accounts
from bridge.ledger.edits import waiting
from bridge.ledger.retired import retired
from bridge.ledger.store import Ledger


def look_at_files(settings: Settings) -> Finding:
    """Checks for the doctor whether every file that a mapping names is accounted for; leaves out retired mappings."""
    path, over = settings.state_dir / "ledger.db", set[str]()
    parts: list[Judgement] = []
    if path.exists():
        with closing(Ledger(path)) as ledger:
            over = {*retired(ledger)}
            for mapping in settings.mappings:
                for name in sorted(waiting(ledger, mapping.stream.key)):
                    said = f"{name}: another file took its place, and nothing tells what it is: it is not carried"
                    tell = f"`bridge repair --as-edit {name}` or `bridge repair --as-new {name}`"
                    parts.append(("bad", said, f"{tell}; `bridge run` says what each does"))
    found = accounts(settings, [mapping for mapping in settings.mappings if mapping.stream.key not in over], time.time)
    for name, account in found.items():
        parts += [("bad", f"{name}: {said}", "`bridge files`, and `bridge repair`") for said in account.sentences()]
    count = sum(len(account.pieces) for account in found.values())
    return worst("account", parts or [("good", f"{counted(count, 'file')}, and each is accounted for", "")])
