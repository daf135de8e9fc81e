"""The command `bridge init`: looks through a folder, shows how its lines would translate, and writes bridge.toml."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.common import Options, emit, verb
from bridge.core.wording import counted

if TYPE_CHECKING:
    from rich.console import Console

    from bridge.admin.survey.discover import Discovery, MappingFiles
    from bridge.core.errors import ConfigError

_TEMPLATE = """\
# How this bridge carries messages between files and Redis. Every key: MIGRATION.md.

# This bridge's stable name. Streams remember it: keep it when the machine gets another name.
instance = {instance}

# The log files live below this folder. Relative to this file.
root = {root}

# What is carried: shipped mappings by name (`bridge mapping list`), or paths to .toml files of your own.
mappings = {mappings}

[redis]
# "embedded" is a server of the bridge's own; else redis://, rediss:// or unix://.
url = {url}

[state]
# The bridge's memory, its lock, and the embedded server's data. Do not delete it.
dir = ".bridge"

# How it does, for a monitor: http://127.0.0.1:9464/metrics and /healthz (needs the extra `metrics`).
# [metrics]
# port = 9464

# A program that reads and writes messages, and the roles it writes as. Only roles named here may become file names.
{components}"""

ROLE = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Matches a role that `bridge init` may write into bridge.toml, since it may become a file's name."""


PROPOSE = "`bridge mapping infer {} > mine.toml` proposes a mapping, then `bridge init --mapping mine.toml`"


@click.command("init", short_help="Look at the logs here and write bridge.toml")
@click.option("--mapping", "mappings", multiple=True, metavar="NAME", help="A shipped mapping, or a path to one")
@click.option("--log", "logs", multiple=True, metavar="FILE", help="A log of another name: a mapping is written for it")
@click.option("--root", default=".", metavar="DIR", help="Where the log files live")
@verb
def command(options: Options, mappings: tuple[str, ...], logs: tuple[str, ...], root: str) -> None:
    """Look through this folder, show how its lines would translate, and write bridge.toml.

    Without --mapping and --log it takes the shipped mappings whose files are here.
    """
    import json
    import secrets

    from bridge.admin.survey.discover import discover
    from bridge.core.config import check_url, masked
    from bridge.core.errors import ConfigError
    from bridge.core.mapping import load_mapping, shipped_names

    if options.config:
        raise click.UsageError("init writes ./bridge.toml; --config is for the commands that read one")
    here = Path.cwd()
    path, folder = here / "bridge.toml", here / root
    url = check_url(options.redis or "embedded", "--redis")
    if path.exists():
        raise ConfigError("is there already and was left alone", where=str(path), hint="edit it, or move it away")
    if not folder.is_dir():
        raise ConfigError("is no folder", where=str(folder), hint="name the folder of the logs with --root")
    written = [_own(here, folder, log) for log in logs]
    names = [*mappings, *(f"./{name}" for name in written)]
    given = {name: load_mapping(name, here) for name in names or shipped_names()}
    seen = discover(folder, list(given.values()))
    here_are = {
        mapping_files.mapping.name for mapping_files in seen.found if mapping_files.files or mapping_files.unread
    }
    names = names or [name for name, mapping in given.items() if mapping.name in here_are]
    if not names and seen.near:
        raise _nearly(seen, folder)
    names = names or ["hestai-message"]
    chosen = [
        mapping_files
        for mapping_files in seen.found
        if mapping_files.mapping.name in {given[name].name for name in names}
    ]
    text = _TEMPLATE.format(
        instance=json.dumps(f"bridge-{secrets.token_hex(3)}"), root=json.dumps(root), url=json.dumps(url),
        mappings=json.dumps(names), components=_components(chosen),
    )  # fmt: skip
    try:
        with path.open("x", encoding="utf-8") as file:
            if "@" in url:
                path.chmod(0o600)  # the url may hold a password
            file.write(text)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", where=str(path)) from None
    reachable, server = _server(url)
    begun = _begin(options, path) if reachable else []
    if options.as_json:
        emit({"config": str(path), "root": str(folder.resolve()), "redis": masked(url), "server": server,
              "reachable": reachable, "mappings": names, "not_understood": seen.names, "retired": begun,
              "sources": {mapping_files.mapping.name: _facts(mapping_files) for mapping_files in chosen},
              })  # fmt: skip
        return
    from bridge.cli.screen import console, safe

    out = console()
    for files in chosen:
        _show(out, files, folder)
    if not here_are:
        _nothing(out, seen, folder, names)
    elif seen.names:
        _rest(out, seen)
    out.print(safe(f"redis: {server}"))
    for name in begun:
        out.print(safe(f"  {name} is retired, says Redis: nothing of it is carried, see `bridge status`", "yellow"))
    out.print(safe(f"wrote {path}", "bold"))
    out.print(safe("next: `bridge import-history --dry-run` tells what of this would come over"))
    out.print(
        safe("      `bridge run --dual` carries both ways until you stop it, `bridge status` says where it stands")
    )


def _components(chosen: list[MappingFiles]) -> str:
    """Makes the components for bridge.toml: one for each role that has a file, where the mirror writes one per role."""
    roles = {
        role.decode("utf-8", "replace")
        for files in chosen if files.mapping.mirror is not None and "{role}" in files.mapping.mirror.path
        for _, check in files.files for role in check.roles
    }  # fmt: skip
    fine = sorted(role for role in roles if ROLE.fullmatch(role))
    if not fine:
        return '# [components.ui]\n# roles = ["ui"]\n'
    said = "# Each role that has a file is a program of its own here; join those that one program writes as.\n"
    return said + "\n".join(f'[components.{role}]\nroles = ["{role}"]\n' for role in fine)


def _facts(files: MappingFiles) -> list[dict[str, Any]]:
    return [
        {"file": str(path), "bytes": check.size, "translated": check.translated, "rejected": check.rejected}
        for path, check in files.files
    ]


def _show(out: Console, files: MappingFiles, folder: Path) -> None:
    from bridge.cli.screen import safe
    from bridge.core.model import shown

    out.print(safe(f"{files.mapping.name}: {files.mapping.source.path} → {files.mapping.stream.key}", "bold"))
    for path, check in files.files:
        total = check.translated + check.rejected
        said = (
            f"{check.translated:,} of {counted(total, check.noun)} translate" if total else f"no whole {check.noun} yet"
        )
        out.print(safe(f"  {path.relative_to(folder)}, {counted(check.size, 'byte')}: {said}"))
        if path == files.files[-1][0]:
            for number, pairs in check.first:
                text = "  ".join(f"{name}={shown(value, 120)}" for name, value in pairs)
                out.print(safe(f"    {number}: {text}"), no_wrap=True, overflow="ellipsis")
        if check.damage:
            out.print(safe(f"    it {check.damage}", "red"))
        for reason, (count, numbers, example) in check.reasons.items():
            where = ", ".join(map(str, numbers)) + (" …" if count > len(numbers) else "")
            text = f"    {count:,} × {reason}, {check.noun} {where}: {shown(example, 120)}"
            out.print(safe(text, "yellow"), no_wrap=True, overflow="ellipsis")
    for error in files.unread:
        out.print(safe(f"  {error}", "red"))


def _rest(out: Console, seen: Discovery) -> None:
    """Prints for `bridge init` the unknown files, which no mapping names: a line for each folder."""
    from collections import Counter

    from bridge.cli.screen import safe
    from bridge.core.model import shown

    folders = Counter(name.rpartition("/")[0] for name in seen.names)
    out.print(safe("not understood, and not carried:", "yellow"))
    for folder, count in folders.most_common(FOLDERS):
        mine = [name.rpartition("/")[2] for name in seen.names if name.rpartition("/")[0] == folder]
        some = ", ".join(shown(os.fsencode(name), 60) for name in mine[:3]) + (" …" if count > 3 else "")
        where = shown(os.fsencode(folder), 80) + "/" if folder else "this folder"
        out.print(safe(f"  {where}: {counted(count, 'file')}: {some}"), no_wrap=True, overflow="ellipsis")
    if len(folders) > FOLDERS:
        out.print(safe(f"  … and {len(folders) - FOLDERS} more folders"))
    out.print(safe("  `bridge mapping infer FILE` or FOLDER proposes a mapping"))


FOLDERS = 8
"""Most folders of unknown files that `bridge init` names."""


def _nothing(out: Console, seen: Discovery, folder: Path, names: list[str]) -> None:
    """Prints for `bridge init`, when no log that a mapping names is found, what is there instead, and what to try."""
    from bridge.cli.screen import safe

    some = ", ".join(seen.names[:5]) + (f" and {len(seen.names) - 5} more" if seen.names[5:] else "")
    out.print(safe(f"no log that a mapping names is in {folder.resolve()}; seen: {some or 'no file at all'}", "yellow"))
    out.print(safe("  if the logs are elsewhere: remove bridge.toml, and `bridge init --root DIR`"))
    out.print(
        safe("  if they have another form: `bridge mapping infer PATH > mine.toml`, `bridge init --mapping mine.toml`")
    )
    out.print(safe(f"  {', '.join(names)} is written down meanwhile: its files are met when they appear"))


def _nearly(seen: Discovery, folder: Path) -> ConfigError:
    """Makes the error of `bridge init` when no log has a known name, but a mapping would translate lines of some."""
    from bridge.core.errors import ConfigError
    from bridge.core.model import shown

    told = []
    for path, mapping, check in seen.near[:3]:
        first = check.translated + check.rejected
        name = shown(os.fsencode(path.relative_to(folder)))
        told.append(f"{name} ({check.translated} of its first {first} lines are such as {mapping.name} knows)")
    name = str(seen.near[0][0].relative_to(folder))
    return ConfigError(
        f"no log here has a name that a mapping knows, but there is {', '.join(told)}; nothing was written",
        where=str(folder),
        hint=f"`bridge init --log {shlex.quote(name)}`" if name.isprintable() else "rename it",
    )


def _own(here: Path, folder: Path, log: str) -> str:
    """Writes for `bridge init --log` a mapping for a log of another name; returns the mapping's file name.

    Raises ConfigError.
    """
    from bridge.admin.survey.discover import closest, own_mapping
    from bridge.core.errors import ConfigError
    from bridge.core.mapping import load_mapping, mapping_path, shipped_names

    file = next((path for path in (folder / log, here / log) if path.is_file()), None)
    if file is None:
        raise ConfigError("there is no such file", where=log, hint="--log takes a file below --root")
    try:
        name = str(file.resolve().relative_to(folder.resolve()))
    except ValueError:
        raise ConfigError("is not below the root", where=str(file), hint="name its folder with --root") from None
    shipped = {load_mapping(shipped_name, here).name: shipped_name for shipped_name in shipped_names()}
    best = closest([load_mapping(shipped_name, here) for shipped_name in shipped_names()], file)
    if best is None:
        hint = PROPOSE.format(shlex.quote(log))
        raise ConfigError("no shipped mapping translates most of its first lines", where=str(file), hint=hint)
    text = mapping_path(shipped[best[0].name], here).read_text(encoding="utf-8")
    try:
        text, own = own_mapping(text, best[0], name)
        with (here / f"{own}.toml").open("x", encoding="utf-8") as out:
            out.write(text)
    except ValueError as error:
        raise ConfigError(str(error), where=str(file), hint="write a mapping with a glob that matches it") from None
    except FileExistsError:
        raise ConfigError("is there already and was left alone", where=str(here / f"{own}.toml")) from None
    return f"{own}.toml"


def _server(url: str) -> tuple[bool, str]:
    """Checks for `bridge init` whether the Redis server is there; returns that, and that in words."""
    from bridge.core.config import masked
    from bridge.core.errors import BridgeError
    from bridge.streams.connect import Connection
    from bridge.streams.embedded.binary import find

    try:
        if url == "embedded":
            binary = find()
            version = ".".join(map(str, binary.version))
            return True, f"embedded, {binary.flavour} {version}; `bridge run` starts it"
        Connection(url, timeout=2).close()
        return True, f"{masked(url)}, it answers"
    except BridgeError as error:
        return False, f"{masked(url)}: {error.what}" + (f" (try: {error.hint})" if error.hint else "")


def _begin(options: Options, path: Path) -> list[str]:
    """Makes the first ledger after `bridge init`, to vouch for mappings that nobody has retired; returns the retired.

    From then on programs with our client may write to the files without Redis (`bridge.client.carried_still`).
    """
    from contextlib import closing, suppress

    from bridge.core.config import load
    from bridge.core.errors import BridgeError
    from bridge.core.state_directory import private
    from bridge.ledger.process_nonces import note_begun
    from bridge.ledger.store import Ledger
    from bridge.streams.dial import dialler
    from bridge.streams.keys import Keys
    from bridge.streams.retired import ending_of

    settings, over = load(config=str(path), redis=options.redis, env=os.environ, cwd=path.parent), list[str]()
    with suppress(BridgeError, OSError):  # without a ledger the programs ask Redis first
        if settings.redis_url != "embedded":
            with closing(dialler(settings, may_start=False)()) as connection:
                over = [m.name for m in settings.mappings if ending_of(connection, Keys.of(m.stream.key)) is not None]
        elif (settings.state_dir / "server").exists():
            return []  # the embedded server knows what is retired, and is not started to be asked
        with closing(Ledger(private(settings.state_dir) / "ledger.db", create=True)) as ledger:
            for mapping in settings.mappings:
                if mapping.name not in over:
                    note_begun(ledger, mapping.stream.key)
    return over
