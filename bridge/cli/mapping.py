"""The commands `bridge mapping list|show|check|infer|schema`: show mappings, and try one on a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bridge.cli.common import Options, Verbs, emit, options, verb
from bridge.core.globs import is_glob


@click.group("mapping", cls=Verbs, short_help="Show mappings, and try one on a file")
@options
def command(**_: object) -> None:
    """Show mappings, and try one on a file."""


@command.command("list")
@verb
def list_(given: Options) -> None:
    """The shipped mappings."""
    from bridge.core.mapping import load_mapping, shipped_names

    loaded = [load_mapping(name, Path.cwd()) for name in shipped_names()]
    if given.as_json:
        emit(
            [
                {"name": m.name, "description": m.description, "path": m.source.path, "stream": m.stream.key}
                for m in loaded
            ]
        )
        return
    width = max(len(m.name) for m in loaded)
    for mapping in loaded:
        click.echo(f"{mapping.name:{width}}  {mapping.source.path} → {mapping.stream.key}  {mapping.description}")


@command.command("show")
@click.argument("name")
@verb
def show(given: Options, name: str) -> None:
    """A mapping's file: NAME is a shipped mapping or a path."""
    from bridge.core.mapping import load_mapping, mapping_path, read_mapping

    load_mapping(name, Path.cwd())
    if given.as_json:
        emit(read_mapping(name, Path.cwd()))
    else:
        click.echo(mapping_path(name, Path.cwd()).read_text(encoding="utf-8"), nl=False)


@command.command("check")
@click.argument("mapping")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--lines", default=5, show_default=True, help="How many first lines to show")
@verb
def check(given: Options, mapping: str, file: Path | None, lines: int) -> int:
    """Show how lines of FILE [the mapping's own, in this folder] translate under MAPPING. Exits 3 when some do not."""
    from bridge.admin.survey.check_lines import check_file, check_folder
    from bridge.core.errors import ConfigError
    from bridge.core.mapping import load_mapping

    loaded = load_mapping(mapping, Path.cwd())
    own = loaded.source.path
    if loaded.kind.whole_files and file is None:
        return _folder(given, check_folder(loaded, Path.cwd(), lines), own)
    files = [file] if file else sorted(Path.cwd().glob(own)) if is_glob(own) else [Path(own)]
    if not files:
        raise ConfigError(f"no file here matches {own}", where=str(Path.cwd()), hint="go there, or name a FILE")
    results = [(path, check_file(loaded, path, lines)) for path in files]
    if given.as_json:
        found = [{"file": str(path), **result.to_json()} for path, result in results]
        emit(found[0] if len(found) == 1 else found)
    else:
        for path, result in results:
            if len(results) > 1:
                click.echo(f"{path.relative_to(Path.cwd())}:")
            _render(result, "messages" if loaded.format.continuation else f"{result.noun}s")
    return 3 if any(result.rejected or result.damage for _, result in results) else 0


def _folder(given: Options, result: Any, path: str) -> int:
    if given.as_json:
        emit({"file": path, **result.to_json()})
    else:
        _render(result, f"{result.noun}s")
    return 3 if result.rejected else 0


@command.command("infer")
@click.argument("file", type=click.Path(path_type=Path))
@verb
def infer(given: Options, file: Path) -> int:
    """Propose a mapping for FILE, a log of any form or a folder, as TOML: put it into a file, edit it, and try
    `mapping check`.

    It was tried on all files that it names, and says how they translate. Exits 3 when it is not sure; the doubts come
    first.
    """
    from bridge.cli.infer import propose_file

    code, text, facts = propose_file(file)
    if given.as_json:
        emit(facts)
    else:
        click.echo(text, nl=False)
    return code


@command.command("schema")
@verb
def schema(given: Options) -> None:
    """The JSON Schema of a mapping file, with which editors complete it and find mistakes.

    `bridge init` writes it to .bridge/schema/mapping.json, where the first line of a proposed mapping points editors.
    """
    from bridge.core.schemas import mapping_schema

    emit(mapping_schema())


def _render(result: Any, noun: str) -> None:
    from bridge.core.model import shown
    from bridge.core.wording import percent

    for number, fields in result.first:
        click.echo(f"{result.noun} {number}")
        for name, value in fields:
            click.echo(f"  {name:10} {shown(value, 100)}")
    total = result.translated + result.rejected
    empty = f"; {result.empty} empty lines" if result.noun == "line" else ""
    share = percent(result.translated, total) if total else "nothing to translate"
    click.echo(f"{result.translated} of {total} {noun} translate ({share}){empty}")
    if result.damage:
        click.echo(f"the file {result.damage}")
    if result.partial:
        click.echo(f"the last line has no newline yet ({result.partial} bytes): it waits")
    for reason, (count, numbers, example) in result.reasons.items():
        more = " …" if count > len(numbers) else ""
        click.echo(f"{count} × {reason}: {result.noun} {', '.join(map(str, numbers))}{more}")
        click.echo(f"    {shown(example, 100)}")
