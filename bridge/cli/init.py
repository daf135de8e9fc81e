"""`bridge init`."""

from __future__ import annotations

from pathlib import Path

import click

from bridge.cli.common import Options, emit, verb

_TEMPLATE = """\
# How this bridge carries messages between files and Redis.

instance = {instance}    # this bridge's stable name; keep it when the machine is renamed
root = {root}    # the log files live below this folder; relative to this file
mappings = {mappings}    # shipped mappings by name, or paths to .toml files

[redis]
url = {url}    # embedded, redis://, rediss:// or unix://

[state]
dir = ".bridge"    # the bridge's memory, its lock, and the embedded server's data: do not delete it

# [components.ui]    # a program that reads and writes messages, and the roles it writes as
# roles = ["ui"]
"""


@click.command("init")
@click.option("--mapping", "mappings", multiple=True, metavar="NAME", help="A shipped mapping, or a path to one")
@click.option("--root", default=".", metavar="DIR", help="Where the log files live")
@verb
def command(options: Options, mappings: tuple[str, ...], root: str) -> None:
    """Write bridge.toml into this folder."""
    import json
    import secrets

    from bridge.config import check_url, masked
    from bridge.errors import ConfigError
    from bridge.mapping import load_mapping

    here = Path.cwd()
    path = here / "bridge.toml"
    names = mappings or ("hestai-message",)
    loaded = [load_mapping(name, here) for name in names]
    url = check_url(options.redis or "embedded", "--redis")
    folder = here / root
    if not folder.is_dir():
        raise ConfigError("is no folder", where=str(folder), hint="name the folder of the logs with --root")
    text = _TEMPLATE.format(
        instance=json.dumps(f"bridge-{secrets.token_hex(3)}"), root=json.dumps(root), url=json.dumps(url),
        mappings=json.dumps(list(names)),
    )  # fmt: skip
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
        if "@" in url:
            path.chmod(0o600)  # the url may hold a password
    except FileExistsError:
        raise ConfigError(
            "is there already and was left alone", where=str(path), hint="edit it, or move it away"
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", where=str(path)) from None
    found = {one.name: sorted(str(p.relative_to(folder)) for p in folder.glob(one.source.path)) for one in loaded}
    if options.as_json:
        emit({"config": str(path), "root": str(folder.resolve()), "redis": masked(url), "sources": found})
        return
    click.echo(f"wrote {path}")
    for one in loaded:
        files = ", ".join(found[one.name]) or f"no {one.source.path} below {folder} yet; it is met when it appears"
        click.echo(f"  {one.name}: {files} → {one.stream.key}")
    click.echo("next: `bridge run --dual` carries both ways, `bridge status` shows where it stands")
