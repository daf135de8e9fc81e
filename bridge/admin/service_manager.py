"""Installs the bridge with the service manager, to start at login: a systemd user unit, or a launchd agent on macOS.

The service manager starts the bridge again when it failed, but not after exit code 2, a fault in the configuration: to
try again would not help.
"""

from __future__ import annotations

import os
import plistlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bridge.core.config import Settings
from bridge.core.errors import BridgeError

WATCHDOG = 60
"""Seconds without a watchdog message after which systemd restarts the bridge; the bridge sends one each second."""

UNIT = """[Unit]
Description=bridge {instance}: carries files into Redis Streams and back
StartLimitIntervalSec=300
StartLimitBurst=20

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
Environment={path}
Restart=on-failure
RestartSec=2
RestartPreventExitStatus=2
TimeoutStartSec=180
WatchdogSec={watchdog}
TimeoutStopSec=60
# The embedded server stays for the components when the bridge stops.
KillMode=process
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native

[Install]
WantedBy=default.target
"""

# launchd tells only success from failure. So a shell turns exit code 2 into success, and passes on SIGTERM.
RUNNER = (
    "trap 'kill -TERM $pid' TERM INT; \"$@\" & pid=$!; "
    "while wait $pid; code=$?; kill -0 $pid 2>/dev/null; do :; done; "
    "[ $code -eq 2 ] && exit 0; exit $code"
)


@dataclass(frozen=True, slots=True)
class ServiceFile:
    """Holds the file that defines the bridge's service: its path, its content, and its name in the service manager."""

    name: str
    path: Path
    content: bytes


def command(settings: Settings, options: Sequence[str]) -> list[str]:
    """Builds the command that the service runs, `bridge run` with the options, with absolute paths only."""
    return [sys.executable, "-m", "bridge", "--config", str(settings.path.resolve()), "run", *options]


def unit(settings: Settings, options: Sequence[str], home: Path, path: str) -> ServiceFile:
    """Builds the systemd user unit of a process of the bridge's: a template for all groups, of which it is one. Pure.

    `home`: the folder of systemd's user units; `path`: the PATH in which the Redis server's program is looked for.
    """
    name, group = f"hestai-bridge-{settings.instance}", settings.group
    text = UNIT.format(
        instance=settings.instance + (" (group %i)" if group else ""),
        command=" ".join(map(_quoted, command(settings, options))) + (" --group %i" if group else ""),
        path=_quoted(f"PATH={path}", expands=False), watchdog=WATCHDOG,
    )  # fmt: skip
    file = f"{name}@.service" if group else f"{name}.service"
    return ServiceFile(f"{name}@{group}.service" if group else file, home / file, text.encode())


def _quoted(word: str, *, expands: bool = True) -> str:
    """Quotes one word for a systemd unit, so that systemd expands no specifier in it, and no variable.

    `expands`: whether systemd expands variables at that place of the unit, so that `$` must be escaped.
    """
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return '"' + (escaped.replace("$", "$$") if expands else escaped) + '"'


def agent(settings: Settings, options: Sequence[str], home: Path, logs: Path, path: str) -> ServiceFile:
    """Builds the launchd agent of a process of the bridge's: each group has one. Pure.

    `home`: ~/Library/LaunchAgents; `logs`: ~/Library/Logs; `path`: the PATH in which the Redis server's program is
    looked for.
    """
    of = f"{settings.instance}.{settings.group}" if settings.group else settings.instance
    name, log = f"org.hestai.bridge.{of}", str(logs / f"hestai-bridge-{of}.log")
    words = [*options, "--group", settings.group] if settings.group else options
    content = {
        "Label": name,
        "ProgramArguments": ["/bin/sh", "-c", RUNNER, "sh", *command(settings, words)],
        "EnvironmentVariables": {"PATH": path},
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ExitTimeOut": 60,
        "AbandonProcessGroup": True,  # the embedded server stays for the components
        "StandardOutPath": log,
        "StandardErrorPath": log,
        "WorkingDirectory": str(settings.path.resolve().parent),
    }
    return ServiceFile(name, home / f"{name}.plist", plistlib.dumps(content))


Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


def run(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Runs a command of the service manager, systemctl or launchctl. Raises BridgeError: there is no such program."""
    if shutil.which(words[0]) is None:
        raise BridgeError(f"there is no {words[0]}", hint="--print shows the file for another service manager")
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=120, stdin=subprocess.DEVNULL)


@dataclass(frozen=True, slots=True)
class Manager:
    """Holds the service manager's commands to enable, disable and show the bridge's service, and where its logs are."""

    enable: Sequence[Sequence[str]]
    disable: Sequence[Sequence[str]]
    show: Sequence[str]
    logs: str


def here(settings: Settings, options: Sequence[str]) -> tuple[ServiceFile, Manager]:
    """Builds the service's file and the service manager's commands for this platform.

    Raises BridgeError: the platform has neither systemd nor launchd.
    """
    path = os.environ.get("PATH", os.defpath)
    if sys.platform == "darwin":
        library = Path.home() / "Library"
        service_file = agent(settings, options, library / "LaunchAgents", library / "Logs", path)
        target = f"gui/{os.getuid()}"
        start = [["launchctl", "bootstrap", target, str(service_file.path)]]
        return service_file, Manager(
            start,
            [["launchctl", "bootout", f"{target}/{service_file.name}"]],
            ["launchctl", "print", f"{target}/{service_file.name}"],
            str(plistlib.loads(service_file.content)["StandardOutPath"]),
        )
    if not sys.platform.startswith("linux"):
        raise BridgeError(
            f"no service manager is known on {sys.platform}", hint="run `bridge run --dual` from your own"
        )
    configuration = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    service_file = unit(settings, options, configuration / "systemd" / "user", path)
    user = ["systemctl", "--user"]
    return service_file, Manager(
        [[*user, "daemon-reload"], [*user, "enable", "--now", service_file.name]],
        [[*user, "disable", "--now", service_file.name], [*user, "daemon-reload"]],
        [*user, "show", service_file.name, "--property=ActiveState,SubState,MainPID,Result,StatusText"],
        f"journalctl --user -u {service_file.name}",
    )


def install(service_file: ServiceFile, manager: Manager, does: Run = run) -> None:
    """Installs the bridge's service: writes its file and starts it by the service manager.

    Raises BridgeError: the service manager refuses; the file stays.
    """
    service_file.path.parent.mkdir(parents=True, exist_ok=True)
    beside = service_file.path.with_name(f".{service_file.path.name}.new")
    beside.write_bytes(service_file.content)
    beside.chmod(0o600)
    beside.replace(service_file.path)
    for words in manager.enable:
        _must(does(words), words)


def uninstall(service_file: ServiceFile, manager: Manager, does: Run = run, *, keep: bool = False) -> bool:
    """Uninstalls the bridge's service: stops it by the service manager and removes its file; False: there was none.

    `keep`: the file stays, as it is also that of another group. Raises BridgeError: there is no service manager, or it
    could not stop the service (the file is removed then).
    """
    if not service_file.path.exists():
        return False
    last, *rest = manager.disable
    stopped = does(last)
    if not keep:
        service_file.path.unlink()
    for words in rest:
        does(words)
    if stopped.returncode:
        raise BridgeError(
            f"its file is removed, but it could not be stopped: {stopped.stderr.strip()}", where=service_file.name,
            hint="does it still run? `bridge status` tells",
        )  # fmt: skip
    return True


def _must(done: subprocess.CompletedProcess[str], words: Sequence[str]) -> None:
    if done.returncode:
        raise BridgeError(
            f"{' '.join(words)}: {done.stderr.strip() or f'exit {done.returncode}'}",
            hint="the file is written: start it by hand, or from a session of your own (not over sudo or cron)",
        )


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """Holds the status of the bridge's service with the service manager.

    `installed`: its file exists; `current`: the file is as it would be written now; `said`: the manager's report.
    """

    installed: bool
    current: bool
    said: str


def status(service_file: ServiceFile, manager: Manager, does: Run = run) -> ServiceStatus:
    """Asks the service manager for the status of the bridge's service, and compares the service's file."""
    there = service_file.path.exists()
    try:
        told = does(manager.show)
        said = " ".join((told.stdout if told.returncode == 0 else told.stderr).split("\n")).strip()
    except BridgeError as error:
        said = str(error)
    return ServiceStatus(there, there and service_file.path.read_bytes() == service_file.content, said)
