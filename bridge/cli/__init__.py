"""The command line of the bridge (`bridge`): collects all verbs, one module per verb, and runs them.

Heavy modules are imported inside the verbs, so that `--help` is quick.
"""

from __future__ import annotations

import os
import sys

import click

from bridge import __version__
from bridge.cli import (
    acl,
    common,
    completion,
    config,
    cutover,
    demo,
    doctor,
    files,
    import_history,
    init,
    journal,
    locate,
    mapping,
    move,
    parity,
    quarantine,
    redact,
    repair,
    retire,
    run,
    server,
    service,
    snapshot,
    status,
    tail,
    trim,
)


@click.group(
    cls=common.Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done · 1 failed · 2 wrong usage or configuration · 3 findings · 4 inconclusive ·"
    " 5 Redis never reached · 130 interrupted.",
)  # fmt: skip
@click.version_option(__version__, prog_name="bridge")
@common.options
def cli(**_: object) -> None:
    """Carries append-only log files into Redis Streams and back, exactly once, while both are in use."""


for module in (
    demo,
    init,
    mapping,
    import_history,
    run,
    parity,
    status,
    files,
    doctor,
    tail,
    locate,
    quarantine,
    repair,
    redact,
    trim,
    snapshot,
    journal,
    server,
    move,
    service,
    acl,
    config,
    completion,
):
    cli.add_command(module.command)
cli.add_command(cutover.cutover)
cli.add_command(cutover.rollback)
cli.add_command(retire.retire)
cli.add_command(retire.purge)
cli.add_command(retire.unretire)
cli.add_command(retire.runbook)


def main() -> None:
    """Runs the console script `bridge`: the verb of the command line, with errors as one message and an exit code."""
    from bridge.core.errors import BridgeError

    # Looking for plugins, of which the bridge needs none, would take a sixth of a command's start.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        from bridge.core import failpoints
        from bridge.files.descriptor_pool import raise_limit

        failpoints.arm(os.environ.get("BRIDGE_CRASH_AT"))
        raise_limit()
    except ValueError as error:
        click.echo(f"bridge: BRIDGE_CRASH_AT: {error}", err=True)
        sys.exit(2)
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        code = 130
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else "bridge"
        common.complain(BridgeError(error.format_message().rstrip("."), hint=f"`{where} --help`"))
        code = 2
    except click.ClickException as error:
        common.complain(BridgeError(error.format_message()))
        code = 2
    except BridgeError as error:
        common.complain(error)
        code = error.exit_code
    except PermissionError as error:
        common.complain(BridgeError(f"is not allowed: {error.strerror}", where=str(error.filename or "")))
        code = 1
    except BrokenPipeError:
        sys.stderr.close()
        code = 0
    except OSError as error:
        hint = "is the disk full, or was a folder taken away? Nothing is lost by it: run it again"
        common.complain(
            BridgeError(f"the system refused: {error.strerror}", where=str(error.filename or ""), hint=hint)
        )
        code = 1
    except KeyboardInterrupt:
        code = 130
    sys.exit(code if isinstance(code, int) else 0)
