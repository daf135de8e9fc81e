"""The command `bridge completion`: prints the script with which a shell completes verbs, options and mappings."""

from __future__ import annotations

import os
from pathlib import Path

import click

from bridge.cli.common import Options, verb

SHELLS = ("bash", "zsh", "fish")


@click.command("completion", short_help="Let the shell complete verbs and options")
@click.argument("shell", type=click.Choice(SHELLS), required=False)
@verb
def command(options: Options, shell: str | None) -> None:
    """Print the script that lets SHELL [yours] complete verbs, options and mappings.

    \b
    bash  eval "$(bridge completion bash)"        in ~/.bashrc
    zsh   eval "$(bridge completion zsh)"         in ~/.zshrc
    fish  bridge completion fish | source         in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    from bridge.core.errors import ConfigError

    root = click.get_current_context().find_root()
    yours = Path(os.environ.get("SHELL", "")).name
    chosen = shell or (yours if yours in SHELLS else None)
    if chosen is None:
        raise ConfigError("which shell is not known", where="SHELL", hint=f"name one: {', '.join(SHELLS)}")
    kind = get_completion_class(chosen)
    if kind is None:
        raise ConfigError(f"{chosen} is not supported", hint=f"one of {', '.join(SHELLS)}")
    name = root.info_name if root.info_name in ("bridge", "hestai-bridge") else "bridge"
    variable = f"_{name.replace('-', '_').upper()}_COMPLETE"
    click.echo(kind(root.command, {}, name, variable).source())
