"""Loads the configuration file `bridge.toml` into settings (DESIGN §5.1): flag > environment > file > default.

Secrets are masked when shown.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable
from collections.abc import Mapping as MappingType
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import platformdirs
from pydantic import Field, field_validator

from bridge.core.errors import ConfigError
from bridge.core.groups import GROUPS, check_groups, process_name
from bridge.core.mapping import Mapping, load_mapping
from bridge.core.path_rules import Paths
from bridge.core.server_address import check_url
from bridge.core.strict_models import Strict, validated

MOST_PORT = 65_535
ROLE = re.compile(r"[A-Za-z0-9_-]{1,64}")


class RedisSection(Strict):
    """The table `[redis]` of bridge.toml: the url of the server, or `embedded`, and the Sentinels' own user.

    `password_command` prints the password at each dial, which is good for `password_lasts` seconds, 0: for ever.
    `replicas`: how many of the server's replicas must have a message before it counts, and for how many seconds they
    are waited for (`replicas_timeout`).
    """

    url: str = "embedded"
    sentinel_user: str = ""
    sentinel_password: str = ""
    password_command: tuple[str, ...] = ()
    password_lasts: Annotated[float, Field(ge=0)] = 0.0
    replicas: Annotated[int, Field(ge=0, le=100)] = 0
    replicas_timeout: Annotated[float, Field(gt=0, le=3600)] = 10.0

    @property
    def sentinel_login(self) -> str:
        """User and password of the Sentinels as a url has them, with the `@` behind; empty where they want none."""
        if not (self.sentinel_user or self.sentinel_password):
            return ""
        return f"{quote(self.sentinel_user, safe='')}:{quote(self.sentinel_password, safe='')}@"


class StateSection(Strict):
    """The table `[state]` of bridge.toml: the folder of the ledger, the lock and the embedded server's data."""

    dir: str = ".bridge"


class MetricsSection(Strict):
    """The table `[metrics]` of bridge.toml: the port of the loopback address on which `bridge run` serves metrics.

    Port 0: any that is free.
    """

    port: Annotated[int, Field(ge=0, le=MOST_PORT)]


class ComponentSection(Strict):
    """A table `[components.NAME]` of bridge.toml: a program that reads and writes messages, and its roles."""

    roles: tuple[str, ...] = ()

    @field_validator("roles")
    @classmethod
    def _safe(cls, roles: tuple[str, ...]) -> tuple[str, ...]:
        for role in roles:
            if not ROLE.fullmatch(role):
                raise ValueError(f"role {role!r} must match {ROLE.pattern}, it may become a file name")
        return roles


def check_component(name: str) -> None:
    """Raises ConfigError for a component's name that cannot be a folder, a consumer group and a part of a field."""
    if not ROLE.fullmatch(name):
        raise ConfigError(f"component {name!r} must match {ROLE.pattern}")


class PathPair(Strict):
    """A rule of `[[paths]]` in bridge.toml: an artifact's path on the files' side, and as readers of Redis name it."""

    from_: Annotated[str, Field(alias="from")]
    to: str

    @field_validator("from_", "to")
    @classmethod
    def _absolute(cls, path: str) -> str:
        if not path.startswith("/"):
            raise ValueError("a path of a rule begins with /")
        return path


class ConfigFile(Strict):
    """The tables of the configuration file `bridge.toml` as written, before flags and environment override them."""

    instance: Annotated[str, Field(min_length=1, pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    root: str = "."
    mappings: Annotated[tuple[str, ...], Field(min_length=1)]
    redis: RedisSection = RedisSection()
    state: StateSection = StateSection()
    components: dict[str, ComponentSection] = Field(default_factory=dict)
    groups: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    paths: tuple[PathPair, ...] = ()
    metrics: MetricsSection | None = None

    @field_validator("groups")
    @classmethod
    def _named(cls, groups: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name in groups:
            if not ROLE.fullmatch(name):
                raise ValueError(f"group {name!r} must match {ROLE.pattern}, it becomes a folder's name")
        return groups


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings that a command runs with: those of bridge.toml, overridden by environment and flags.

    Where bridge.toml has groups, each process carries a part of the mappings with a ledger of its own: `of_group`.
    Paths are absolute.
    """

    path: Path
    instance: str
    root: Path
    home: Path
    """The bridge's state directory: what all groups share, which is the embedded server and the components' places."""
    state_dir: Path
    """The folder of the ledger and the lock: the state directory, or a folder in it for each group."""
    redis_url: str
    mappings: tuple[Mapping, ...]
    components: MappingType[str, frozenset[str]]
    """The roles that each component writes as."""
    sentinel_login: str = ""
    """User and password of the Sentinels as a url has them, with the `@` behind; empty where they want none."""
    password_command: tuple[str, ...] = ()
    """The command that prints the password of Redis, run at every dial; empty: the password is in the url."""
    password_lasts: float = 0.0
    """Seconds for which a connection may be used with such a password; 0: for ever."""
    replicas: int = 0
    """How many replicas must have a message before a client's `append` is done, or the mirror writes its line."""
    replicas_timeout: float = 10.0
    """Seconds for which the replicas are waited for, until what waits is held."""
    log_format: str = "text"
    paths: Paths = field(default_factory=Paths)
    """The path rules of `[[paths]]`: how each side names the same artifact."""
    families: MappingType[str, Mapping] = field(default_factory=dict)
    """The mappings with many streams, by name, as their files have them; `mappings` has each of their streams."""
    shared: dict[str, object] = field(default_factory=dict, compare=False)
    """What the streams of one mapping share in a process, by the mapping's name."""
    written_keys: MappingType[str, str] = field(default_factory=dict)
    """`stream.key` of each mapping, by the mapping's name, as its file has it, with `{instance}`."""
    metrics_port: int | None = None
    """The port of the loopback address that serves metrics; 0: any that is free; None: no metrics are served."""
    groups: MappingType[str, tuple[str, ...]] = field(default_factory=dict)
    """The names of the mappings of each group that a process of its own carries; the rest is in none."""
    neighbours: tuple[Mapping, ...] = ()
    """The mappings of other groups, as bridge.toml has them: other processes carry them."""
    group: str = ""
    """The group whose mappings these are; empty: those in no group, or, of settings as loaded, all."""

    @property
    def process_name(self) -> str:
        """The name under which the process that carries these mappings gives its heartbeat: `<instance>[/<group>]`."""
        return process_name(self.instance, self.group)

    def of_group(self, group: str) -> Settings:
        """Returns the settings of the process of a group: its mappings, its state directory and its metrics' port.

        `group` is empty for the mappings in no group. Raises ConfigError: there is no such group.
        """
        if group and group not in self.groups:
            known = f"groups: {', '.join(self.groups)}" if self.groups else "[groups] in bridge.toml names groups"
            near = difflib.get_close_matches(group, self.groups, 1)
            raise ConfigError(f"there is no group '{group}' here", where=str(self.path),
                              hint=f"did you mean '{near[0]}'?" if near else known)  # fmt: skip
        of = {name: named for named, names in self.groups.items() for name in names}
        mine = tuple(mapping for mapping in self.mappings if of.get(mapping.family, "") == group)
        others = tuple(mapping for mapping in self.mappings if of.get(mapping.family, "") != group)
        place = self.home / GROUPS / group if group else self.home
        port = self.metrics_port
        if port and group:  # the process of the mappings in no group has the first, and each group the next
            port += 1 + list(self.groups).index(group)
            if port > MOST_PORT:
                raise ConfigError(f"there is no port {port} for the metrics of group '{group}'", where=str(self.path),
                                  hint="a lower [metrics] port: each group has the next one")  # fmt: skip
        return replace(self, mappings=mine, neighbours=others, group=group, state_dir=place, metrics_port=port,
                       shared={})  # fmt: skip

    def of_mapping(self, name: str) -> Settings:
        """Returns the settings of the process that carries a mapping, or a stream of a mapping with many, by its name.

        The settings themselves where there are no groups, or no such mapping.
        """
        family = name if name in self.written_keys else name.partition(":")[0]
        of = next((group for group, names in self.groups.items() if family in names), "")
        return self.of_group(of) if self.groups else self

    def parts(self) -> list[Settings]:
        """Returns the settings of each process that carries some of these mappings: of those in no group, first.

        Without groups that is one.
        """
        if not self.groups or self.group:
            return [self]
        found = [self.of_group(group) for group in ("", *self.groups)]
        return [part for part in found if part.mappings] or found[:1]

    @property
    def roles(self) -> frozenset[str]:
        """Returns the roles that the components of bridge.toml write as, of all components together."""
        return frozenset().union(*self.components.values())

    def mapping(self, name: str) -> Mapping:
        """Returns the mapping of bridge.toml that has this name, or the stream of a mapping with many.

        Raises ConfigError that names the nearest one, or says that the mapping has many streams.
        """
        found = self.chosen([name])
        if len(found) == 1:
            return found[0]
        some = ", ".join(mapping.name for mapping in found[:3])
        raise ConfigError(
            f"mapping '{name}' has {len(found) or 'no'} streams{'' if found else ' yet'}",
            where=str(self.path),
            hint=f"name one of them: {some}{', …' if len(found) > 3 else ''}" if found else "they come with its logs",
        )

    def chosen(self, names: Iterable[str]) -> list[Mapping]:
        """Returns the mappings of these names, each once: of a mapping with many streams all, or those named; else all.

        Raises ConfigError that names the nearest one.
        """
        wanted = dict.fromkeys(name.replace("/", "%2F") for name in names)
        found = {name: [m for m in self.mappings if name in (m.name, m.family)] for name in wanted}
        for name in (name for name, mappings in found.items() if not mappings and name not in self.families):
            known = list(dict.fromkeys(mapping.family for mapping in self.mappings))
            near = difflib.get_close_matches(name, [*known, *(mapping.name for mapping in self.mappings)], 1)
            raise ConfigError(
                f"there is no mapping '{name}' here",
                where=str(self.path),
                hint=f"did you mean '{near[0]}'?" if near else f"mappings: {', '.join(known)}",
            )
        if not wanted:
            return list(self.mappings)
        return list({mapping.name: mapping for mappings in found.values() for mapping in mappings}.values())

    def role_of(self, component: str) -> str:
        """Returns the one role that a component writes as. Raises ConfigError: it has several, or none."""
        roles = self.components.get(component, frozenset())
        if len(roles) != 1:
            said = "several roles" if roles else "no role"
            raise ConfigError(f"component '{component}' has {said} in bridge.toml", where=str(self.path),
                              hint="name one: append(…, role=\"ui\")")  # fmt: skip
        return next(iter(roles))

    @property
    def some_key(self) -> str:
        """A key of Redis of this bridge's, for what is asked of a server and not of a stream."""
        return self.mappings[0].stream.key if self.mappings else f"bridge:{self.instance}"


def find_config(flag: str | None, env: MappingType[str, str], cwd: Path) -> Path | None:
    """Finds bridge.toml: --config > BRIDGE_CONFIG > ./bridge.toml > the user's config directory; None: there is none.

    Raises ConfigError when a file that was named does not exist.
    """
    for named, source in ((flag, "--config"), (env.get("BRIDGE_CONFIG"), "BRIDGE_CONFIG")):
        if named:
            path = cwd / named
            if not path.is_file():
                raise ConfigError(
                    f"no such file, named by {source}", where=str(path), hint="make one with `bridge init`"
                )
            return path
    for path in (cwd / "bridge.toml", Path(platformdirs.user_config_dir("bridge")) / "bridge.toml"):
        if path.is_file():
            return path
    return None


def read_toml(path: Path) -> dict[str, object]:
    """Reads a TOML file of the bridge's configuration and returns its tables.

    Raises ConfigError when the file cannot be read or parsed.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"is not valid TOML: {error}", where=str(path)) from None


def load(
    *, config: str | None, redis: str | None, env: MappingType[str, str], cwd: Path, log_format: str | None = None
) -> Settings:
    """Loads bridge.toml and the mappings that it names into the settings of a command.

    Raises ConfigError for whatever is missing or unknown.
    """
    path = find_config(config, env, cwd)
    if path is None:
        raise ConfigError("there is no bridge.toml here", where=str(cwd), hint="make one with `bridge init`")
    file = validated(ConfigFile, read_toml(path), str(path))
    base = path.resolve().parent
    written = [load_mapping(name, base) for name in file.mappings]
    mappings = tuple(mapping.of_bridge(file.instance) for mapping in written)
    _check_together(mappings, str(path))
    check_groups(file.groups, [mapping.name for mapping in mappings], str(path))
    url, source = redis or env.get("BRIDGE_REDIS_URL") or file.redis.url, str(path)
    if redis or env.get("BRIDGE_REDIS_URL"):
        source = "--redis" if redis else "BRIDGE_REDIS_URL"
    log_format = log_format or env.get("BRIDGE_LOG_FORMAT") or "text"
    if log_format not in ("text", "json"):
        raise ConfigError(f"log format {log_format!r} is neither text nor json", where="BRIDGE_LOG_FORMAT")
    root = (cwd / env["BRIDGE_ROOT"] if env.get("BRIDGE_ROOT") else base / file.root).resolve()
    home = state_dir(env, cwd, base / file.state.dir)
    paths = Paths.of([(pair.from_, pair.to) for pair in file.paths])
    if clash := paths.clash(os.fsencode(root)):
        first, other = (ascii(os.fsdecode(part)) for part in clash)
        said = f"[[paths]] give {first} and {other} one name" if first != other else f"[[paths]] name {first} twice"
        hint = "each path of the files' side needs a name of its own on the other"
        raise ConfigError(said, where=str(path), hint=hint)
    return Settings(
        path=path, instance=file.instance, root=root, home=home, state_dir=home,
        redis_url=check_url(url, source), sentinel_login=file.redis.sentinel_login, mappings=mappings,
        password_command=file.redis.password_command, password_lasts=file.redis.password_lasts,
        replicas=file.redis.replicas, replicas_timeout=file.redis.replicas_timeout,
        components={name: frozenset(component.roles) for name, component in file.components.items()},
        written_keys={mapping.name: mapping.stream.key for mapping in written},
        log_format=log_format, paths=paths, metrics_port=file.metrics.port if file.metrics is not None else None,
        groups=file.groups,
    )  # fmt: skip


def state_dir(env: MappingType[str, str], cwd: Path, default: Path) -> Path:
    """Returns the configured state directory, where the ledger, the lock and the embedded server's data live.

    BRIDGE_STATE_DIR names it, else it is the default.
    """
    return (cwd / env["BRIDGE_STATE_DIR"] if env.get("BRIDGE_STATE_DIR") else default).resolve()


def _check_together(mappings: tuple[Mapping, ...], where: str) -> None:
    """Raises ConfigError for configured mappings that share a name or a stream, or read what another one writes.

    Two mappings that would carry each other's lines would echo for ever.
    """
    for seen, mapping in ((m.name, m) for m in mappings):
        for other in mappings:
            if other is mapping:
                continue
            if other.name == seen:
                raise ConfigError(f"mapping '{seen}' is named twice", where=where)
            if other.stream.key == mapping.stream.key:
                raise ConfigError(
                    f"mappings '{mapping.name}' and '{other.name}' both use stream '{mapping.stream.key}'",
                    where=where,
                    hint="give each mapping a stream of its own",
                )
            if mapping.written and other.claims(mapping.written):
                raise ConfigError(
                    f"mapping '{mapping.name}' writes {mapping.written}, which mapping '{other.name}' reads",
                    where=where,
                    hint="what one writes would be carried into the other's stream",
                )
