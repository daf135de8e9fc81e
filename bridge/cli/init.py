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
    from bridge.admin.survey.propose import TriedProposal
    from bridge.core.errors import ConfigError

_TEMPLATE = """\
{schema}
# How this bridge carries messages between files and Redis. Every key: MIGRATION.md.

# This bridge's stable name. Streams remember it: keep it when the machine gets another name.
instance = {instance}

# The log files live below this folder. Relative to this file.
root = {root}

# What is carried: shipped mappings by name (`bridge mapping list`), or paths to .toml files of your own.
mappings = {mappings}

[redis]
# "embedded" is a server of the bridge's own; else redis://, rediss://, unix:// or sentinel://.
url = {url}

[state]
# The bridge's memory, its lock, and the embedded server's data. Do not delete it.
dir = ".bridge"

# How it does, for a monitor: http://127.0.0.1:9464/metrics and /healthz (needs the extra `metrics`).
# [metrics]
# port = 9464

# Mappings that a process of their own carries, by `bridge run --group a`; the rest is in no group.
# [groups]
# a = ["…"]

# A program that reads and writes messages, and the roles it writes as. Only roles named here may become file names.
{components}"""

ROLE = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Matches a role that `bridge init` may write into bridge.toml, since it may become a file's name."""


@click.command("init", short_help="Look at the logs here and write bridge.toml")
@click.option("--mapping", "mappings", multiple=True, metavar="NAME", help="A shipped mapping, or a path to one")
@click.option("--log", "logs", multiple=True, metavar="FILE", help="A log of another name: a mapping is written for it")
@click.option("--yes", is_flag=True, help="Write the mappings that are proposed for unknown logs, and take them")
@click.option("--root", default=".", metavar="DIR", help="Where the log files live")
@verb
def command(options: Options, mappings: tuple[str, ...], logs: tuple[str, ...], yes: bool, root: str) -> None:
    """Look through this folder, show how its lines would translate, and write bridge.toml.

    Without --mapping and --log it takes the shipped mappings whose files are here. For other logs it proposes mappings
    as `bridge mapping infer` does, and says how to take them; --yes takes them.
    """
    import json
    import secrets

    from bridge.admin.survey.discover import PROPOSED, discover
    from bridge.cli.infer import as_facts
    from bridge.core.errors import ConfigError
    from bridge.core.mapping import Mapping, load_mapping, shipped_names
    from bridge.core.schemas import directive
    from bridge.core.server_address import check_url, masked
    from bridge.core.strict_models import validated

    if options.config:
        raise click.UsageError("init writes ./bridge.toml; --config is for the commands that read one")
    here = Path.cwd()
    path, folder = here / "bridge.toml", here / root
    url = check_url(options.redis or "embedded", "--redis")
    if path.exists():
        raise ConfigError("is there already and was left alone", where=str(path), hint="edit it, or move it away")
    if not folder.is_dir():
        raise ConfigError("is no folder", where=str(folder), hint="name the folder of the logs with --root")
    given = {name: load_mapping(name, here) for name in mappings or (() if logs else shipped_names())}
    shipped = {mapping.name for mapping in given.values()}
    of_logs = _named_apart([_of_log(here, folder, log) for log in logs], shipped)
    own = {tried.tables["name"]: validated(Mapping, tried.tables, str(of)) for of, tried in of_logs}
    seen = discover(folder, [*given.values(), *own.values()])
    _named_apart(seen.proposals, {*shipped, *own})
    taken = [*of_logs, *(seen.proposals if yes else ())]
    here_are = {files.mapping.name for files in seen.found if files.files or files.unread}
    names = [*mappings] if mappings or logs else [name for name, m in given.items() if m.name in here_are]
    if not names and not taken:
        raise _nothing(seen, folder)
    written = _written(here, taken)
    wanted = {*(given[name].name for name in names), *own}
    chosen = [found for found in seen.found if found.mapping.name in wanted]
    names += [f"./{name}" for name in written]
    text = _TEMPLATE.format(
        schema=directive(".bridge", "config"), instance=json.dumps(f"bridge-{secrets.token_hex(3)}"),
        root=json.dumps(root), url=json.dumps(url), mappings=json.dumps(names), components=_components(chosen),
    )  # fmt: skip
    try:
        with path.open("x", encoding="utf-8") as file:
            if "@" in url:
                path.chmod(0o600)  # the url may hold a password
            file.write(text)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", where=str(path)) from None
    _put_schemas(here)
    reachable, server = _server(url)
    begun = _begin(options, path) if reachable else []
    if options.as_json:
        emit({"config": str(path), "root": str(folder.resolve()), "redis": masked(url), "server": server,
              "reachable": reachable, "mappings": names, "not_understood": seen.names, "retired": begun,
              "sources": {mapping_files.mapping.name: _facts(mapping_files) for mapping_files in chosen},
              "proposals": [{"path": str(of.relative_to(folder)), "taken": yes, **as_facts(tried)}
                            for of, tried in seen.proposals],
              })  # fmt: skip
        return
    from bridge.cli.screen import console, safe

    out = console()
    for files in chosen:
        _show(out, files, folder)
    for _, tried in of_logs:
        _show_doubts(out, tried)
    for of, tried in seen.proposals:
        _show_proposal(out, of, tried, folder, taken=yes)
    if seen.names:
        _rest(out, seen)
        if len(seen.proposals) >= PROPOSED:
            out.print(safe(f"  after {PROPOSED} proposals no more files were looked at", "yellow"))
    out.print(safe(f"redis: {server}"))
    for name in begun:
        out.print(safe(f"  {name} is retired, says Redis: nothing of it is carried, see `bridge status`", "yellow"))
    out.print(safe(f"wrote {path}{''.join(f', {name}' for name in written)}", "bold"))
    out.print(safe("next: `bridge import-history --dry-run` tells what of this would come over"))
    out.print(
        safe("      `bridge run --dual` carries both ways until you stop it, `bridge status` says where it stands")
    )


def _named_apart(proposals: list[tuple[Path, TriedProposal]], taken: set[str]) -> list[tuple[Path, TriedProposal]]:
    """Gives proposals for several logs different names, and streams, where their files are called the same."""
    names = {"bridge", *map(str.lower, taken)}  # bridge.toml is the configuration
    for _, tried in proposals:
        name, n = tried.tables["name"], 1
        while name.lower() in names:
            n += 1
            name = f"{tried.tables['name'][:60]}-{n}"
        names.add(name.lower())
        tried.tables["name"], tried.tables["stream"] = name, {"key": f"{name}:messages"}
    return proposals


def _written(here: Path, proposals: list[tuple[Path, TriedProposal]]) -> list[str]:
    """Writes for `bridge init` each proposal as a mapping file, and returns their names. Raises ConfigError."""
    from bridge.cli.infer import as_toml
    from bridge.core.errors import ConfigError

    files = [(f"{tried.tables['name']}.toml", as_toml(tried)) for _, tried in proposals]
    for name, _ in files:
        if (here / name).exists():
            hint = f"take it with `--mapping ./{name}`, or move it away"
            raise ConfigError("is there already and was left alone", where=str(here / name), hint=hint)
    for name, text in files:
        try:
            (here / name).write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot be written: {error.strerror}", where=str(here / name)) from None
    return [name for name, _ in files]


def _put_schemas(here: Path) -> None:
    """Writes the schemas to where the files of `bridge init` point editors; goes on without, as they are a comfort."""
    from contextlib import suppress

    from bridge.core.errors import ServerError
    from bridge.core.schemas import write_schemas
    from bridge.core.state_directory import private

    with suppress(OSError, ServerError):
        write_schemas(private(here / ".bridge"))


def _show_doubts(out: Console, tried: TriedProposal) -> None:
    from bridge.cli.screen import safe

    for doubt in tried.proposal.doubts:
        out.print(safe(f"  not sure: {doubt}", "yellow"))


def _show_proposal(out: Console, of: Path, tried: TriedProposal, folder: Path, *, taken: bool) -> None:
    """Prints for `bridge init` the mapping that is proposed for an unknown log, its doubts, and how it is taken."""
    from bridge.cli.screen import safe
    from bridge.core.model import shown
    from bridge.core.wording import percent

    checked, key = tried.checked, tried.tables["stream"]["key"]
    total = checked.translated + checked.rejected
    path = shown(os.fsencode(of.relative_to(folder)), 200)
    out.print(safe(f"{path} → {key}: {'a mapping was written' if taken else 'a mapping is proposed'}", "bold"))
    share = f"{checked.translated:,} of {counted(total, checked.noun)} translate ({percent(checked.translated, total)})"
    out.print(safe(f"  {share}" if tried.whole else f"  {share}, of a part of it"))
    _show_doubts(out, tried)
    if not taken:
        own, name = f"{tried.tables['name']}.toml", shlex.quote(os.path.relpath(of))
        said = f'  `bridge mapping infer {name} > {own}`, then "./{own}" among the mappings of bridge.toml'
        out.print(safe(said))


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


def _nothing(seen: Discovery, folder: Path) -> ConfigError:
    """Makes the error of `bridge init` when no file that a mapping names is here: what is here, and what to try."""
    from bridge.core.errors import ConfigError
    from bridge.core.model import shown
    from bridge.core.wording import percent

    if seen.proposals:
        told = []
        for of, tried in seen.proposals[:3]:
            checked = tried.checked
            share = percent(checked.translated, checked.translated + checked.rejected)
            told.append(f"{shown(os.fsencode(of.relative_to(folder)), 80)} ({share} of it translates)")
        more = f" and {len(seen.proposals) - 3} more" if seen.proposals[3:] else ""
        return ConfigError(
            f"no log here has a name that a shipped mapping knows, but a mapping can be proposed for {', '.join(told)}"
            f"{more}; nothing was written",
            where=str(folder), hint="`bridge init --yes` writes and takes it, `bridge mapping infer FILE` shows it",
        )  # fmt: skip
    some = ", ".join(shown(os.fsencode(name), 60) for name in seen.names[:5])
    more = f" and {len(seen.names) - 5} more" if seen.names[5:] else ""
    return ConfigError(
        f"no log is here that a mapping names; seen: {some + more or 'no file at all'}; nothing was written",
        where=str(folder.resolve()),
        hint="name the folder of the logs with --root, or with --mapping what will come: `bridge mapping list`",
    )


def _of_log(here: Path, folder: Path, log: str) -> tuple[Path, TriedProposal]:
    """Proposes for `bridge init --log` a mapping for a log of another name. Raises ConfigError."""
    from bridge.admin.survey.propose import propose
    from bridge.core.errors import BridgeError, ConfigError

    file = next((path for path in (folder / log, here / log) if path.is_file()), None)
    if file is None:
        raise ConfigError("there is no such file", where=log, hint="--log takes a file below --root")
    if not file.resolve().is_relative_to(folder.resolve()):
        raise ConfigError("is not below the root", where=str(file), hint="name its folder with --root")
    try:
        tried = propose(file, folder)
    except BridgeError as error:
        raise ConfigError(error.what, where=str(file), hint=error.hint) from None
    if not tried.checked.translated:
        raise ConfigError("no mapping is known that translates a line of it", where=str(file),
                          hint=f"`bridge mapping infer {shlex.quote(log)}` says why")  # fmt: skip
    return folder / file.resolve().relative_to(folder.resolve()), tried


def _server(url: str) -> tuple[bool, str]:
    """Checks for `bridge init` whether the Redis server is there; returns that, and that in words."""
    from bridge.core.errors import BridgeError
    from bridge.core.server_address import masked
    from bridge.streams.connector import Connector
    from bridge.streams.dial import url_dialler
    from bridge.streams.embedded.binary import find

    try:
        if url == "embedded":
            binary = find()
            version = ".".join(map(str, binary.version))
            return True, f"embedded, {binary.flavour} {version}; `bridge run` starts it"
        url_dialler(url, b"bridge", connect=Connector(timeout=2))().close()
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
    from bridge.streams.dial import Connections
    from bridge.streams.keys import Keys
    from bridge.streams.retired import ending_of

    settings, over = load(config=str(path), redis=options.redis, env=os.environ, cwd=path.parent), list[str]()
    with suppress(BridgeError, OSError):  # without a ledger the programs ask Redis first
        if settings.redis_url != "embedded":
            with closing(Connections(settings, may_start=False)) as servers:
                keys = {m.name: Keys.of(m.stream.key) for m in settings.mappings}
                over = [name for name, own in keys.items() if ending_of(servers.to(own.stream), own) is not None]
        elif (settings.home / "server").exists():
            return []  # the embedded server knows what is retired, and is not started to be asked
        with closing(Ledger(private(settings.state_dir) / "ledger.db", create=True)) as ledger:
            for mapping in settings.mappings:
                if mapping.name not in over:
                    note_begun(ledger, mapping.stream.key)
    return over
