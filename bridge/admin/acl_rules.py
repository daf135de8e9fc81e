"""Builds the smallest ACL rules for the bridge and for each component in Redis: keys, channels, commands. Pure.

The rules are those of ACL SETUSER (Redis 7.0). Redis checks the commands and keys of a script as if the script's caller
had sent them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bridge.core.config import Settings
from bridge.core.groups import process_name
from bridge.core.mapping import Mapping
from bridge.core.mapping_sections import INSTANCE, NAME
from bridge.core.server_address import cluster_address, sentinel_address
from bridge.streams.components import FIRST_COMPONENTS
from bridge.streams.keys import Keys, health
from bridge.streams.layout import permanent
from bridge.streams.notice import shard_channel

CONNECT = ("client|setname", "ping", "select", "time")

BRIDGE = (
    "client|tracking", "del", "discard", "eval", "exec", "exists", "get", "hdel", "hello", "hexists", "hget",
    "hgetall", "hincrby", "hkeys", "hlen", "hmget", "hscan", "hset", "hsetnx", "hstrlen", "hvals", "info",
    "memory|usage", "multi", "publish", "set", "type", "unwatch", "watch", "xack", "xadd", "xclaim", "xdel",
    "xgroup|create", "xgroup|destroy", "xinfo|consumers", "xinfo|groups", "xinfo|stream", "xpending", "xrange",
    "xread", "xreadgroup", "xrevrange", "xtrim", "command|info",
)  # fmt: skip

COMPONENT = (
    "eval", "exists", "hdel", "hget", "hset", "hvals", "publish", "xack", "xadd", "xautoclaim", "xclaim",
    "xgroup|create", "xinfo|groups", "xinfo|stream", "xpending", "xrange", "xreadgroup",
)  # fmt: skip


SEVERAL = ("hgetall", "psubscribe", "scan", "xread")
"""The commands that a component needs besides to read several streams in one loop."""

ALL_HOSTS = ("exists", "get", "hgetall", "scan", "xinfo|stream", "xrange")
"""The commands of `bridge parity --all-hosts`, which reads what the bridges of other hosts keep of their streams."""


@dataclass(frozen=True, slots=True)
class User:
    """Describes an ACL user of Redis: its name, its purpose and its rules, without `on` and a password."""

    name: str
    purpose: str
    keys: tuple[str, ...]
    channels: tuple[str, ...]
    commands: tuple[str, ...]

    @property
    def rules(self) -> str:
        """Formats the rules of an ACL user in the form that ACL SETUSER takes."""
        parts = [*self.keys, "resetchannels", *(f"&{channel}" for channel in self.channels), "-@all"]
        return " ".join([*parts, *(f"+{command}" for command in sorted(self.commands))])

    @property
    def shown(self) -> str:
        """Formats the rules of an ACL user for redis-cli: a rule that redis-cli would split is in quotes."""
        return " ".join(f"'{name}'" if re.search(r"[^\w@+:~&|./-]", name) else name for name in self.rules.split(" "))


def users(settings: Settings) -> list[User]:
    """Builds the ACL users: one for the bridge, and one for each component that bridge.toml declares."""
    mappings = list({mapping.family: settings.families.get(mapping.family, mapping)
                     for mapping in (*settings.mappings, *settings.families.values())}.values())  # fmt: skip
    in_cluster = cluster_address(settings.redis_url) is not None
    first = [] if in_cluster else [FIRST_COMPONENTS.decode()]
    dialling = ["cluster|slots"] if in_cluster else ["role"] if sentinel_address(settings.redis_url) else []
    dialling += ["wait"] if settings.replicas else []
    shards = [_literal(shard_channel(m.stream.key.encode()).decode()) for m in mappings] if in_cluster else []
    bridge = User(
        settings.instance if settings.instance.startswith("bridge") else f"bridge-{settings.instance}", "the bridge",
        (*(f"~{_literal(mapping.stream.key)}" for mapping in mappings),
         *(f"~bridge:{{{_literal(mapping.stream.key)}}}:*" for mapping in mappings),
         *(f"~{key}" for key in first), *_permanent(settings, mappings, first),
         f"~{_literal(health(settings.instance).decode())}",
         *(f"~{_literal(health(process_name(settings.instance, group)).decode())}" for group in settings.groups)),
        (*(_literal(mapping.notify) for mapping in mappings),
         *(_literal(Keys.of(mapping.stream.key).components.decode()) for mapping in mappings), *shards, *first),
        (*CONNECT, *BRIDGE, *dialling, *(["spublish"] if in_cluster else []), *(["scan"] if settings.families else [])),
    )  # fmt: skip
    components = [_component(name, mappings, first, dialling) for name in sorted(settings.components)]
    return [bridge, *components, *_all_hosts(settings, bridge.name, dialling)]


def _all_hosts(settings: Settings, name: str, dialling: Sequence[str]) -> list[User]:
    """Builds the user that asks what all hosts have proved, where mappings give each host a stream of its own."""
    written = settings.written_keys.values()
    streams = ["*".join(map(_literal, key.replace(NAME, INSTANCE).split(INSTANCE))) for key in written]
    keys = [part for key in streams for part in (f"%R~{key}", f"%R~bridge:{{{key}}}:*")]
    rules, commands = (*keys, f"%R~{health('').decode()}*"), (*CONNECT, *ALL_HOSTS, *dialling)
    several = any(INSTANCE in key for key in written)
    return [User(f"{name}-hosts", "bridge parity --all-hosts", rules, (), commands)] if several else []


def _permanent(settings: Settings, mappings: Iterable[Mapping], first: Sequence[str]) -> Iterable[str]:
    """Lists the rules for the heartbeats by which bridges of layout 1 leave the streams alone."""
    for mapping in mappings if first else ():
        yield f"~{_literal(permanent(Keys.of(mapping.stream.key), settings.instance).decode())}"


def _component(name: str, mappings: Iterable[Mapping], first: Sequence[str], dialling: Sequence[str]) -> User:
    keys: list[str] = []
    channels: list[str] = []
    for mapping in mappings:
        own = Keys.of(mapping.stream.key)
        keys += [f"~{_literal(key.decode())}" for key in (own.stream, own.positions, own.producers, own.components)]
        keys += [f"~{_literal(own.meta.decode())}"]
        keys += [f"%R~{_literal(key.decode())}" for key in (own.checkpoint, own.generations, own.late, own.retired)]
        channels += [_literal(mapping.notify), _literal(own.components.decode())]
        if mapping.kind.latest:
            keys.append(f"~bridge:{{{_literal(mapping.stream.key)}}}:state:*")
    several = SEVERAL if any(mapping.many_streams for mapping in mappings) else ()
    return User(name, f"component {name}", (*keys, *(f"~{key}" for key in first)), (*channels, *first),
                (*CONNECT, *COMPONENT, *dialling, *several))  # fmt: skip


def _literal(text: str) -> str:
    """Escapes the name of a key or channel, so that as an ACL pattern it matches this name alone, or all streams'."""
    return re.sub(r"([*?\\[\]])", r"\\\1", text).replace(NAME, "*")
