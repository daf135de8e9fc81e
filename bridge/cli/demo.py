"""`bridge demo`: a log carried both ways on a server of its own, in a folder that goes away afterwards."""

from __future__ import annotations

from pathlib import Path

import click

from bridge.cli.common import Options, counted, emit, verb

_LINES = (
    b"agent|2026-03-02T09:14:05.112Z|session_started|hello\n"
    b"ui|2026-03-02T09:14:06.020Z|prompt|a line may hold | and \\ too\n"
)


@click.command("demo")
@click.argument("log", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@verb
def command(options: Options, log: Path | None) -> int:
    """Carry LOG (or two lines) both ways on a server of its own, and compare the two sides."""
    import tempfile
    from threading import Event

    from bridge.config import Settings
    from bridge.drain import once
    from bridge.errors import BridgeError
    from bridge.mapping import load_mapping
    from bridge.run import dialler
    from bridge.server import embedded
    from bridge.streams.reader import entries

    content = log.read_bytes() if log else _LINES
    content += b"" if content.endswith(b"\n") or not content else b"\n"
    mapping = load_mapping("hestai-message", Path.cwd())
    with tempfile.TemporaryDirectory(prefix="bridge-demo-") as scratch:
        root = Path(scratch)
        file = root / mapping.source.path
        file.write_bytes(content)
        settings = Settings(root / "bridge.toml", "demo", root, root / ".bridge", "embedded", (mapping,), frozenset())
        embedded.start(settings.state_dir)
        try:
            [there] = once(settings, dual=True, stop=Event())
            connection = dialler(settings)()
            said = (
                b"role",
                b"ui",
                b"timestamp",
                b"2026-03-02T09:15:04Z",
                b"type",
                b"prompt",
                b"data",
                b"written to Redis",
            )
            connection.call("XADD", mapping.stream.key, "*", *said)
            [back] = once(settings, dual=True, stop=Event())
            [again] = once(settings, dual=True, stop=Event())
            rows = [b"|".join(one.fields[1:8:2]) for one in entries(connection, mapping.stream.key.encode())]
            connection.close()
        finally:
            embedded.stop(settings.state_dir)
        lines = [line for line in file.read_bytes().split(b"\n") if line]
    errors: list[BridgeError] = [*there.errors, *back.errors, *again.errors]
    same = rows == lines and not errors and again.forwarded == again.mirrored == 0
    if options.as_json:
        emit({"lines": len(lines), "entries": len(rows), "forwarded": there.forwarded, "mirrored": back.mirrored,
              "equal": same})  # fmt: skip
        return 0 if same else 1
    for error in errors:
        click.echo(f"  {error}")
    there_lines, back_lines = counted(there.forwarded, "line"), counted(back.mirrored, "entry", "entries")
    click.echo(f"{there_lines} of {log or 'an example'} became entries of the stream {mapping.stream.key}")
    click.echo(f"{back_lines} that a program wrote into Redis became a line: {lines[-1].decode(errors='replace')}")
    click.echo(f"a second run: {counted(again.forwarded, 'line')}, {counted(again.mirrored, 'entry', 'entries')}")
    click.echo(f"{len(lines)} lines and {len(rows)} entries: {'equal, once each, in order' if same else 'NOT EQUAL'}")
    click.echo("next, with your own log: `bridge init`, then `bridge run --dual`")
    return 0 if same else 1
