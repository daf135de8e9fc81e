"""Shares among all verbs of the command line the global options, JSON output, error messages and completion."""

from __future__ import annotations

import difflib
import functools
import json
import os
import resource
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bridge.core.groups import GROUPS

if TYPE_CHECKING:
    from bridge.core.config import Settings
    from bridge.core.errors import BridgeError

FILES = 10_240
"""Open files that a command asks the system for: the most that macOS grants."""

F = TypeVar("F", bound=Callable[..., Any])

_GLOBAL = (
    click.option(
        "--config", metavar="FILE", help="bridge.toml to use [./bridge.toml, then the user's config directory]"
    ),
    click.option("--redis", metavar="URL", help="embedded, redis://, rediss://, unix://, sentinel:// or cluster://"),
    click.option("--group", metavar="NAME", help="Only the mappings of this group of bridge.toml"),
    click.option("--json", "as_json", is_flag=True, help="Results as JSON on stdout"),
    click.option("-v", "--verbose", is_flag=True, help="Log more"),
    click.option("-q", "--quiet", is_flag=True, help="Log only errors"),
)


class Verbs(click.Group):
    """A click group that lists its verbs in the order of their use, and suggests the nearest for a misspelt one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Lists the verbs of the command line in the order in which they were added."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the verb that the command line names, as click does, and suggests the nearest verb if there is none."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), 1)
            if not near or "Did you mean" in error.message:
                raise
            raise click.UsageError(f"{error.message} Did you mean '{near[0]}'?", ctx) from None


@dataclass(frozen=True, slots=True)
class Options:
    """The global options that every verb of the command line takes, given before the verb or after it."""

    config: str | None
    redis: str | None
    as_json: bool
    verbosity: int
    group: str | None = None
    """The group whose mappings the command is about, empty: those in no group, None: all groups there are."""

    def settings(self, log_format: str | None = None) -> Settings:
        """Loads the settings from bridge.toml, overridden by the command line's global options. Raises ConfigError.

        Each stream of a mapping with many counts as a mapping. They are those of a group, where the options name one.
        """
        settings = self.as_written(log_format)
        if not any(mapping.many_streams for mapping in settings.mappings):
            return settings
        from bridge.kinds.stream_family import with_streams  # imported late: it imports much, and few need it

        return with_streams(settings)

    def together(self) -> Settings:
        """Loads the settings of all groups with the mappings of all, for a command that asks no ledger.

        Each stream of a mapping with many counts as a mapping. Raises ConfigError.
        """
        found = [part.settings() for part in self.parts()]
        mappings = tuple(mapping for part in found for mapping in part.mappings)
        families = {name: mapping for part in found for name, mapping in part.families.items()}
        return replace(self.as_written(), mappings=mappings, families=families)

    def as_written(self, log_format: str | None = None) -> Settings:
        """Loads the settings as bridge.toml has them, with mappings of many streams. Raises ConfigError."""
        from bridge.core.config import load

        whole = load(config=self.config, redis=self.redis, env=os.environ, cwd=Path.cwd(), log_format=log_format)
        return whole if self.group is None else whole.of_group(self.group)

    def parts(self, names: Iterable[str] = ()) -> list[Options]:
        """Returns the options for each group that has some of the mappings of these names, or any; without groups one.

        The mappings in no group are a part of their own, which comes first. Raises ConfigError: a name is unknown.
        """
        settings = self.as_written()
        if not settings.groups or self.group is not None:
            return [self]
        wanted = [name if name in settings.written_keys else name.partition(":")[0] for name in names]
        chosen = {mapping.name for mapping in settings.chosen(wanted)}
        found = [part for part in settings.parts() if any(mapping.name in chosen for mapping in part.mappings)]
        return [replace(self, group=part.group) for part in found]

    def bring_over(self) -> None:
        """Brings mappings that bridge.toml has moved over to a command's group, for a command that changes something.

        Raises as `bridge.continuity.group_moves.bring_over`.
        """
        settings = self.as_written()
        if settings.groups or (settings.home / GROUPS).exists():
            from bridge.continuity.group_moves import bring_over

            for said in bring_over(settings, who()):
                click.echo(f"bridge: {said}", err=True)

    def must_have(self, names: Iterable[str] = ()) -> None:
        """Makes sure that a command tells of no mapping, of these names or any, that its group has yet to bring over.

        What the group's ledger tells of a mapping that waits would be wrong. Raises BridgeError where one waits.
        """
        settings = self.as_written()
        if not settings.groups and not (settings.home / GROUPS).exists():
            return
        from bridge.continuity.group_moves import waiting_moves
        from bridge.core.errors import BridgeError

        wanted = {name.partition(":")[0] for name in names}
        for name, move in waiting_moves(settings).items():
            if not wanted or name in wanted:
                raise BridgeError(move.said, where=name, hint=move.hint(settings.group))

    def log(self, log_format: str = "text") -> None:
        """Sets up a command's log on stderr, as verbose as the global options say."""
        from bridge.core.logger import set_up

        set_up(log_format, self.verbosity)


def options(function: F) -> F:
    """Adds the global options to a verb of the command line."""
    for option in reversed(_GLOBAL):
        function = option(function)
    return function


def verb(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a verb with the global options and calls it with one `Options`, merged with those before the verb."""

    @functools.wraps(function)
    def wrapped(
        *, config: str | None, redis: str | None, group: str | None, as_json: bool, verbose: bool, quiet: bool,
        **rest: Any,
    ) -> Any:  # fmt: skip
        before: dict[str, Any] = {}
        context = click.get_current_context().parent
        while context is not None:
            before = {**context.params, **{k: v for k, v in before.items() if v}}
            context = context.parent
        verbose, quiet = verbose or bool(before.get("verbose")), quiet or bool(before.get("quiet"))
        if verbose and quiet:
            raise click.UsageError("-v and -q contradict each other")
        _may_open_many()
        return function(
            Options(
                config or before.get("config"), redis or before.get("redis"), as_json or bool(before.get("as_json")),
                -1 if quiet else 1 if verbose else 0, group if group is not None else before.get("group"),
            ),
            **rest,
        )  # fmt: skip

    return options(wrapped)


def _may_open_many() -> None:
    """Raises the command's limit of open files as far as the system lets it: each log and context is held open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):
            return  # macOS may allow less than it says: the limit stays as it is


def mapping_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Completes a mapping's name in the shell: from the mappings of bridge.toml, or else the shipped mappings."""
    from bridge.core.config import load
    from bridge.core.errors import BridgeError
    from bridge.core.mapping import shipped_names

    try:
        names = [mapping.name for mapping in load(config=None, redis=None, env=os.environ, cwd=Path.cwd()).mappings]
    except BridgeError:
        names = shipped_names()
    return [name for name in names if name.startswith(incomplete)]


_collected: ContextVar[list[object] | None] = ContextVar("collected", default=None)
"""What a command of several groups has emitted so far, as JSON documents; None: they are printed at once."""


@contextmanager
def collected() -> Iterator[list[object]]:
    """Collects the JSON documents that a command emits in the block, in the place of printing them."""
    found: list[object] = []
    token = _collected.set(found)
    try:
        yield found
    finally:
        _collected.reset(token)


def emit(value: object) -> None:
    """Prints a command's result as one JSON document on stdout."""
    if (documents := _collected.get()) is not None:
        documents.append(value)
        return
    click.echo(_plain(json.dumps(value, ensure_ascii=False, indent=2)))


def emit_line(value: object) -> None:
    """Prints one item of a command that streams its result, as JSON in a line on stdout."""
    click.echo(_plain(json.dumps(value, ensure_ascii=False)))


def _plain(text: str) -> str:
    """Escapes in JSON output the control characters that JSON leaves as they are (DEL, CSI, changes of direction)."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] if c > "\x7f" else "\\u007f" for c in text
    )


def complain(error: BridgeError) -> None:
    """Prints an error of a command on stderr: what happened, where, and what to try."""
    click.echo(f"bridge: {error}", err=True)
    if error.hint:
        click.echo(f"  try: {error.hint}", err=True)


def serve(settings: Settings) -> None:
    """Starts the embedded server for a command, if the settings name that server and it does not run."""
    from bridge.core.logger import logger
    from bridge.streams.embedded import embedded_server

    if settings.redis_url == "embedded" and not embedded_server.running(settings.home):
        server = embedded_server.start(settings.home)
        logger.info(
            "started the embedded server (process %s); `bridge server stop` ends it", embedded_server.pid_of(server)
        )


def of_root(settings: Settings) -> Settings:
    """Checks that the root in a command's settings is a folder, and returns the settings. Raises ConfigError."""
    from bridge.core.errors import ConfigError

    if not settings.root.is_dir():
        raise ConfigError("root is no folder", where=str(settings.root), hint="make it, or mend `root` in bridge.toml")
    return settings


def say_unaccounted(mapping: str, sentences: Sequence[str]) -> None:
    """Prints on stderr which of a mapping's files are unaccounted, and which commands show and mend that."""
    for said in sentences:
        click.echo(f"bridge: {mapping}: {said}", err=True)
    if sentences:
        click.echo("  try: `bridge files` shows it; `bridge repair` brings over what was never carried", err=True)


def who() -> str:
    """Returns `user@host` of whoever runs the command, for the ledger's journal."""
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def exit_code_of(errors: Sequence[BridgeError], *, carried: bool) -> int:
    """Returns the exit code of a command that carried what it could: 2, 3 or 5 where all errors are of that kind, or 1.

    5, Redis is not there, only where nothing was `carried`.
    """
    codes = {error.exit_code for error in errors}
    code = codes.pop() if len(codes) == 1 else 1
    return 1 if code == 5 and carried else code
