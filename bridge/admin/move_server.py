"""Moves all data from the embedded Redis server to another server, while no bridge and no component runs.

This is `bridge move`. It copies each key under a temporary name, compares each copy with its original, and renames all
copies at once. It changes bridge.toml last: a move that is killed before that is not in effect, one after it is done.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from bridge.core.config import Settings, load
from bridge.core.errors import BridgeError, ConfigError
from bridge.core.failpoints import failpoint
from bridge.core.model import paired
from bridge.core.server_address import check_url, cluster_address, masked
from bridge.streams.components import FIRST_COMPONENTS
from bridge.streams.connect import Connection
from bridge.streams.connector import Connector
from bridge.streams.copy_keys import KEY_TYPES, MERGE, KeyContent, copy, held, kind_of, names
from bridge.streams.dial import url_dialler
from bridge.streams.embedded import embedded_server
from bridge.streams.keys import expires
from bridge.streams.reader import durability, server_info

PAUSE_MS = 10_000
"""Milliseconds for which CLIENT PAUSE stops writes on the embedded server; renewed as long as the move goes on."""


@dataclass(slots=True)
class MovePlan:
    """Plans a move to another Redis server: the keys that would be copied, and the reasons against the move.

    `to`: the other server's url, masked. `keys`: the content of each key; `there`: the keys that the other server has
    already, with the same content. `reasons`: what prevents the move, each with what to do; `notes`: worth knowing.
    """

    to: str
    keys: dict[bytes, KeyContent] = field(default_factory=dict)
    there: set[bytes] = field(default_factory=set)
    reasons: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def streams(self) -> dict[bytes, KeyContent]:
        """The streams among the keys that would be moved to the other Redis server."""
        return {key: what for key, what in self.keys.items() if what.kind == "stream"}


class ServerMove:
    """Moves all keys that the embedded server of one bridge.toml holds to another Redis server.

    `to`: the other server's url. `tell` is called with each key when its copy begins, and with the number of keys.
    """

    def __init__(self, settings: Settings, to: str, tell: Callable[[str, int], object]) -> None:
        self._settings = settings
        self._to = check_url(to, "--to")
        self._tell = tell
        self._pausing: Connection | None = None
        """The connection that sends CLIENT PAUSE to the embedded server, so that the server takes no writes."""
        self._prefix = f"bridge:moving:{settings.instance}:".encode()

    # -- looking ---------------------------------------------------------------------------------------------

    def plan(self) -> MovePlan:
        """Looks at both Redis servers, and plans which keys a move would copy and what prevents it; changes no data.

        Starts the embedded server if that does not run. Raises ConfigError, RedisLost, RedisRefused, ServerError.
        """
        with closing(self._source()) as source, closing(self._target()) as target:
            return self._plan(source, target)

    def _source(self) -> Connection:
        server = embedded_server.known(self._settings.home)
        if self._settings.redis_url != "embedded":
            hint = "`move` is from the embedded server to one of your own"
            raise ConfigError(f"uses {masked(self._settings.redis_url)}", where=str(self._settings.path), hint=hint)
        if server is None:
            hint = "there is nothing to move: write the url into bridge.toml"
            raise BridgeError("the embedded server was never started", where=str(self._settings.home), hint=hint)
        if not embedded_server.alive(server):
            server = embedded_server.start(self._settings.home)
        return Connection(server.socket_url, timeout=30.0)

    def _target(self) -> Connection:
        if self._to == "embedded":
            raise ConfigError("--to names the server to move to", hint="--to redis://user:password@host:6379/0")
        if cluster_address(self._to) is not None:
            hint = "write the url into bridge.toml: `bridge run --dual` fills the cluster from the files"
            raise ConfigError("move copies to one server, and this is a cluster", where=masked(self._to), hint=hint)
        connection = url_dialler(
            self._to, b"", self._settings.sentinel_login, Connector.of(self._settings, timeout=30.0)
        )()
        try:
            connection.probe()
        except BaseException:
            connection.close()
            raise
        return connection

    def _plan(self, source: Connection, target: Connection) -> MovePlan:
        plan = MovePlan(masked(self._to))
        if server_info(source, "server").get("run_id") == server_info(target, "server").get("run_id"):
            plan.reasons.append(("both are the same server", "name another one with --to"))
            return plan
        self._look_at_clients(source, plan)
        self._look_at_target(target, plan)
        for key in names(source):
            if expires(key):
                continue
            kind = kind_of(source, key)
            if kind not in (*KEY_TYPES, "none"):
                plan.reasons.append((f"{_text(key)} is of type {kind}, which cannot be copied", "remove it first"))
            elif (found := held(source, key, self._pause)) is not None:
                plan.keys[key] = found
                self._look_at_name(source, target, key, found, plan)
        for name in server_info(source, "keyspace"):
            if name != "db0":
                plan.notes.append(f"the embedded server's database {name[2:]} holds keys, which stay behind")
        gone = sum(what.deleted for what in plan.keys.values())
        if gone:
            plan.notes.append(f"{gone:,} pending entries name a message that was deleted: they are not moved")
        return plan

    def _look_at_clients(self, source: Connection, plan: MovePlan) -> None:
        mine = {int(link.call("CLIENT", "ID")) for link in (source, self._pausing) if link is not None}
        found = Counter[str]()
        for row in source.call("CLIENT", "LIST").decode(errors="replace").splitlines():
            facts = dict(part.split("=", 1) for part in row.split(" ") if "=" in part)
            if facts.get("id", "").isdigit() and int(facts["id"]) not in mine:
                found[facts.get("name") or facts.get("addr", "?").rpartition(":")[0] or "?"] += 1
        for who, count in sorted(found.items()):
            said = f"{who} is connected to the embedded server, {count} time{'s' * (count != 1)}"
            plan.reasons.append((said, "stop it: nothing may run meanwhile"))

    @staticmethod
    def _look_at_target(target: Connection, plan: MovePlan) -> None:
        facts = server_info(target, "server") | server_info(target, "replication")
        version = facts.get("redis_version", "0")
        if int(version.partition(".")[0] or 0) < 7:
            plan.reasons.append((f"it is of version {version}", "use Redis 7.0 or newer, or Valkey"))
        if facts.get("role") == "slave":
            plan.reasons.append(("it is a replica, and takes no writes", "name its primary"))
        if facts.get("redis_mode") == "cluster":
            plan.reasons.append(("it is a cluster, which the bridge does not speak yet", "name a single server"))
        kept = durability(target)
        if not kept.aof:
            plan.notes.append("it keeps no append-only file: a restart may lose entries (appendonly yes)")
        if kept.evicts:
            plan.notes.append(f"it may throw streams away (maxmemory-policy {kept.evicts}: use noeviction)")
        if kept.failing:
            plan.notes.append(f"it fails to save: {kept.failing}")

    def _look_at_name(
        self, source: Connection, target: Connection, key: bytes, mine: KeyContent, plan: MovePlan
    ) -> None:
        other = held(target, key, self._pause)
        if other is None:
            return
        if other == mine:
            plan.there.add(key)
        elif key != FIRST_COMPONENTS or other.kind != "hash":
            hint = f"is it from elsewhere? Then choose another database; from an earlier try: DEL {_text(key)}"
            plan.reasons.append((f"it holds {_text(key)} already, another one", hint))
        else:  # the hash holds other bridges' components too
            ours, theirs = (paired(connection.call("HGETALL", key)) for connection in (source, target))
            if any(theirs.get(name, value) != value for name, value in ours.items()):
                plan.reasons.append(
                    (f"it holds other values of the same fields of {_text(key)}", "choose another database")
                )
            elif all(name in theirs for name in ours):
                plan.there.add(key)

    # -- moving ----------------------------------------------------------------------------------------------

    def execute(self) -> MovePlan:
        """Moves the embedded server's keys to the other Redis server, if no reason is against it; returns the plan.

        The old data stay where they are, and the embedded server is stopped. Nothing is changed where the plan has
        reasons. The caller holds the state directory's lock. Raises BridgeError, OSError.
        """
        with closing(self._source()) as source, closing(self._target()) as target, closing(self._source()) as beside:
            self._pausing = beside  # a connection of its own: the others are reading a page when the pause is renewed
            self._pause()
            try:
                plan = self._plan(source, target)
                if plan.reasons:
                    beside.call("CLIENT", "UNPAUSE")
                    return plan
                self._write_config(really=False)
                for key in names(target, self._prefix):  # left behind by a move that was killed
                    target.call("DEL", key)
                self._copy_all(source, target, plan)
                self._write_config(really=True)
            except BaseException:
                with suppress(BridgeError):
                    beside.call("CLIENT", "UNPAUSE")
                raise
        failpoint("move.stop.before")
        embedded_server.stop(self._settings.home)
        failpoint("move.stop.after")
        return plan

    def _pause(self) -> None:
        if self._pausing is not None:
            self._pausing.call("CLIENT", "PAUSE", PAUSE_MS, "WRITE")

    def _copy_all(self, source: Connection, target: Connection, plan: MovePlan) -> None:
        missing = [key for key in plan.keys if key not in plan.there]
        for key in missing:
            to = self._prefix + key
            self._tell(_text(key), len(missing))
            failpoint("move.copy.before")
            copy(source, target, key, to, self._pause)
            failpoint("move.copy.after")
            made, was = held(target, to, self._pause), held(source, key, self._pause)
            if not made == was == plan.keys[key]:
                hint = "does anything write to either server? Nothing was changed: try again"
                raise BridgeError(f"the copy of {_text(key)} is not what it was made of", where=plan.to, hint=hint)
        if missing:
            pairs = [name for key in missing for name in (self._prefix + key, key)]
            how = ["merge" if key == FIRST_COMPONENTS else "rename" for key in missing]
            failpoint("move.name.before")
            taken = target.call("EVAL", MERGE, len(pairs), *pairs, *how)
            failpoint("move.name.after")
            if taken != 1:
                where = " ".join(map(_text, taken))
                raise BridgeError(f"{where} came to be there meanwhile", where=plan.to, hint="who writes there?")

    def _write_config(self, *, really: bool) -> None:
        """Writes the url of the server moved to into bridge.toml, atomically by a rename. Raises ConfigError, OSError.

        Not `really`: only checks that the url can be changed in the file's text.
        """
        path = self._settings.path.resolve()
        text = with_url(path.read_text(encoding="utf-8"), self._to)
        try:
            named = tomllib.loads(text)["redis"]["url"]
        except tomllib.TOMLDecodeError:
            named = ""
        if named != self._to:
            hint = 'write the url into it by hand: [redis] url = "…", and move again'
            raise ConfigError("the url of [redis] cannot be changed in it", where=str(path), hint=hint)
        if not really:
            return
        failpoint("move.config.before")
        hidden = path.with_name(f".{path.name}.new")
        mode = 0o600 if "@" in self._to else path.stat().st_mode & 0o777
        fd = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(fd)
        hidden.rename(path)
        failpoint("move.config.after")


_TABLE = re.compile(r"(?ms)^[ \t]*\[redis\][ \t]*(?:#[^\n]*)?\n.*?(?=^[ \t]*\[|\Z)")
_URL = re.compile(r"(?m)^([ \t]*url[ \t]*=[ \t]*)(\"[^\"\n]*\"|'[^'\n]*')")


def with_url(text: str, url: str) -> str:
    """Replaces the url of `[redis]` in the text of a bridge.toml, and leaves all other text as it is. Pure."""
    quoted = '"' + url.replace("\\", "\\\\").replace('"', '\\"') + '"'
    table = _TABLE.search(text)
    if table is None:
        return text.rstrip("\n") + f"\n\n[redis]\nurl = {quoted}\n"
    inner, count = _URL.subn(lambda found: found[1] + quoted, table[0], count=1)
    if not count:
        head, _, rest = table[0].partition("\n")
        inner = f"{head}\nurl = {quoted}\n{rest}"
    return text[: table.start()] + inner + text[table.end() :]


def check_source(path: Path, flag: str | None, env: Mapping[str, str]) -> None:
    """Checks that bridge.toml alone names the Redis server to move from, because the move changes the url there.

    Raises ConfigError: the flag `--redis` or the variable BRIDGE_REDIS_URL names it.
    """
    named = "--redis" if flag else "BRIDGE_REDIS_URL" if env.get("BRIDGE_REDIS_URL") else ""
    if named and load(config=str(path), redis=None, env={}, cwd=path.parent).redis_url == "embedded":
        raise ConfigError(f"{named} says another url than bridge.toml", where=str(path), hint=f"leave {named} out")


def _text(key: bytes) -> str:
    return key.decode(errors="backslashreplace")
