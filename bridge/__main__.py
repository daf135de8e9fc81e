"""The commands of the bridge, `bridge` and `python -m bridge`: says what to install where only the client is."""

import sys

PARTS = ("click", "rich", "jinja2", "watchdog", "sqlite_utils", "puremagic")
"""What the commands need, and a program that only imports the client does not."""


def main() -> None:
    """Runs the command line; exits with 2 where what it needs besides the client is not installed."""
    try:
        from bridge.cli import main as commands
    except ModuleNotFoundError as error:
        if error.name not in PARTS:
            raise
        sys.stderr.write(
            f"bridge: the commands need {error.name}, which a program with our client does not:"
            " pip install 'hestai-bridge[cli]'\n"
        )
        sys.exit(2)
    commands()


if __name__ == "__main__":
    main()
