"""Latest values: the file and the hash of each, read anew."""

from __future__ import annotations

import hashlib
import os

from bridge.files.spool import Folder
from bridge.ledger.state import values
from bridge.model import ZERO_ID
from bridge.parity.check import Check, Result, verdict_of
from bridge.parity.classify import Difference
from bridge.parity.since import Since
from bridge.parity.tally import Tally
from bridge.parity.view import Cursors
from bridge.streams import state
from bridge.streams.connect import Connection
from bridge.streams.state import LIMIT


class StateCheck(Check):
    """One mapping whose files hold a latest value. What both sides did not hold last, as far as is known, is due."""

    def _of_both(self, since: Since | None, connection: Connection, marks: Connection) -> Result | None:
        if since is not None:
            return None
        known = values(self._ledger, self._mapping.stream.key) if self._ledger is not None else {}
        cursors = Cursors(self._mapping, self._settings, connection, self._keys, self._ledger)
        cursors.say_who()
        source, tally, hasher = self._mapping.source, Tally(), hashlib.blake2b(digest_size=16)
        folder = Folder(self._settings.root, source.path, source.exclude)
        files = {one.name for some in folder.scan() for one in some}
        by_file = source.owner == "file"
        for name in sorted(files | known.keys()):
            taken = folder.read(name, LIMIT)
            found = state.read(connection, self._keys, name)
            file, hashed = (taken.raw if taken is not None else None), (found[0].data if found is not None else None)
            ours, theirs = (file, hashed) if by_file else (hashed, file)
            if found is not None and found[0].sha256 != found[1] and not by_file:
                tally.in_flight += 1  # somebody is setting the hash's fields one after the other
                continue
            if taken is not None and taken.facts.size > LIMIT:
                tally.unverifiable += 1
                tally.why[f"{os.fsdecode(name)!a} is too large for a value"] = 1
                continue
            if ours is not None and ours == theirs:
                tally.file_born += by_file
                tally.redis_born += not by_file
                hasher.update(name + b"\0" + ours + b"\0")
            elif ours is None:
                tally.taken_away += by_file  # a state that Redis never set is none yet
            elif known.get(name, (b"", b""))[0] != hashlib.sha256(ours).hexdigest().encode():
                tally.in_flight += 1
            else:
                missing = "missing_in_redis" if by_file else "missing_in_file"
                kind = missing if theirs is None and found is None else "altered"
                shown = os.fsdecode(name).encode("utf-8", "backslashreplace").decode()
                one = Difference(kind, shown, None, None, None, ours, theirs, file_born=by_file)
                tally.differences.append(one)
        tally.digest = hasher.hexdigest()
        result = Result(self._mapping.name, self._mapping.stream.key, verdict_of(tally, 0), tally)
        result.entry, result.notes, result.lost = ZERO_ID, cursors.notes, ""
        return result
