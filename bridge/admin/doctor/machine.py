"""The doctor's checks of this machine: permissions, disk space, limits of the system, file systems, other programs.

The checks of other programs find those that write a log without O_APPEND, and logrotate's `copytruncate`.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from fnmatch import fnmatch
from pathlib import Path

from bridge.admin.doctor.finding import Finding, Judgement, asked, worst
from bridge.core.config import Settings
from bridge.core.errors import SourceError
from bridge.core.wording import counted, size
from bridge.kinds.mapping_context import MappingContext

NETWORK = (
    "nfs",
    "cifs",
    "smb",
    "9p",
    "fuse.sshfs",
    "afpfs",
    "webdav",
    "davfs",
    "glusterfs",
    "ceph",
    "virtiofs",
    "vboxsf",
)
"""Prefixes of the types of network file systems: another machine may change a file there without an event here."""

LOW, FULL_SHARE = 1 << 30, 0.05
"""Free bytes, and free share of a disk, below which the doctor calls the disk nearly full."""

ROTATORS = ("/etc/logrotate.conf", "/etc/logrotate.d", "/usr/local/etc/logrotate.d", "/opt/homebrew/etc/logrotate.d")


def files_of(settings: Settings) -> dict[str, list[Path]]:
    """Lists, for the doctor's checks of this machine, the files of each mapping that exist, by the mapping's name."""
    found: dict[str, list[Path]] = {}
    for mapping in settings.mappings:
        shared = MappingContext(mapping, settings)
        try:
            folder = shared.folder or shared.values
            if folder is not None:
                names = [os.fsdecode(found_file.name) for some in folder.scan() for found_file in some]
            else:
                names = shared.source_names()
            found[mapping.name] = [path for name in names if (path := settings.root / name).exists()]
        finally:
            shared.close()
    return found


def permissions(settings: Settings, files: Mapping[str, Sequence[Path]]) -> Finding:
    """Checks for the doctor the permissions of source files, mirrored files, the root folder and the state directory.

    The bridge must be able to read the sources, to write the mirrored files and to list the root; no other user may
    have access to the state directory.
    """
    parts: list[Judgement] = []
    closed = [path for some in files.values() for path in some if not os.access(path, os.R_OK)]
    if closed:
        said = f"{counted(len(closed), 'file')} may not be read, {closed[0]} among them"
        parts.append(("bad", said, "let the bridge's user read them"))
    for mapping in settings.mappings:
        target = settings.root / mapping.mirror.path if mapping.mirror and "{" not in mapping.mirror.path else None
        if target is not None and target.exists() and not os.access(target, os.W_OK):
            parts.append(("bad", f"{target} may not be written, and is the mirror's", "let the bridge's user write it"))
    if not os.access(settings.root, os.R_OK | os.X_OK):
        parts.append(("bad", f"{settings.root} may not be listed", "let the bridge's user list it"))
    state = settings.state_dir
    if state.exists() and state.stat().st_mode & 0o077:
        said = f"{state} is open to others (mode {state.stat().st_mode & 0o777:o}): it holds what was said"
        parts.append(("bad", said, f"chmod 700 {state}"))
    many = counted(sum(map(len, files.values())), "file")
    return worst("permissions", [*parts, ("good", f"{many} of {counted(len(files), 'mapping')} can be read", "")])


def disk(folders: Iterable[Path]) -> Finding:
    """Checks for the doctor whether the disks on which the given folders lie have enough free space."""
    parts: list[Judgement] = []
    for device in {folder.stat().st_dev: folder for folder in folders if folder.exists()}.values():
        usage = shutil.disk_usage(device)
        low = usage.free < LOW or usage.free < FULL_SHARE * usage.total
        said = f"{size(usage.free)} free at {device}"
        parts.append(("bad", said, "make room: when it is full the bridge waits") if low else ("good", said, ""))
    return worst("disk", parts)


# -- what the system allows ----------------------------------------------------------------------------------


def descriptors(files: int, soft: int, hard: int) -> Finding:
    """Checks for the doctor whether the limit of file descriptors lets the bridge hold so many files open. Pure.

    `soft` and `hard` are the limits of RLIMIT_NOFILE.
    """
    wanted = files + 64
    may = "any number of" if hard == resource.RLIM_INFINITY else f"{hard:,}"
    said = f"{counted(files, 'file')} to hold open, and {may} may be (now {soft:,})"
    if hard != resource.RLIM_INFINITY and hard < wanted:
        return Finding("descriptors", "bad", said, f"ulimit -Hn {2 * wanted}, or LimitNOFILE in its service")
    return Finding("descriptors", "good", said)


def inotify(watches: int, most_watches: int, instances: int, most_instances: int) -> Finding:
    """Checks for the doctor whether Linux's inotify limits leave the bridge enough watches and instances. Pure.

    `watches`: how many the bridge needs; `instances`: how many this user has open already.
    """
    parts: list[Judgement] = []
    hint = "sysctl fs.inotify.max_user_{0}={1}; or `bridge run --poll`"
    if watches > 0.5 * most_watches:
        said = f"{watches:,} folders to watch, and a user may watch {most_watches:,}"
        parts.append(("bad", said, hint.format("watches", 4 * watches)))
    if instances > 0.9 * most_instances:
        said = f"{instances} of {most_instances} inotify instances of this user are taken"
        parts.append(("bad", said, hint.format("instances", 4 * most_instances)))
    few = f"{counted(watches, 'folder')} of {most_watches:,} to watch, {instances} of {most_instances} instances taken"
    return worst("inotify", parts or [("good", few, "")])


def look_at_inotify(settings: Settings, files: Mapping[str, Sequence[Path]]) -> Finding:
    """Checks for the doctor whether this machine's inotify limits let a bridge watch all folders of its mappings."""
    limits = Path("/proc/sys/fs/inotify")
    if not limits.exists():
        return Finding("inotify", "good", "this system has other events")
    folders: set[Path] = set()
    for mapping in settings.mappings:
        if mapping.kind.appended:
            folders |= {path.parent for path in (*files[mapping.name], settings.root / mapping.source.path)}
        else:
            with closing(MappingContext(mapping, settings)) as shared:
                folders |= shared.folders()
    taken = sum(1 for _, _, link in _descriptors() if link == "anon_inode:inotify")
    most = [int((limits / f"max_user_{name}").read_text()) for name in ("watches", "instances")]
    return inotify(len(folders), most[0], taken, most[1])


def _descriptors() -> Iterable[tuple[int, str, str]]:
    """Yields from Linux's /proc each open file descriptor that this user may see: process, number and target."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            links = [(path.name, str(path.readlink())) for path in list((process / "fd").iterdir())]
        except OSError:  # the process is another user's, or has ended
            continue
        yield from ((int(process.name), number, link) for number, link in links)


# -- file systems --------------------------------------------------------------------------------------------


def mounted(path: Path, table: str) -> str:
    """Finds the type of the file system that a path is on, in a table of this machine's mounts (/proc/mounts). Pure."""
    best, kind = "", "?"
    for row in table.splitlines():
        parts = row.split(" ")
        if len(parts) < 3:
            continue
        point = parts[1].replace("\\040", " ")
        if (str(path) == point or str(path).startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, kind = point, parts[2]
    return kind


def _kind_of(path: Path) -> str:
    if Path("/proc/mounts").exists():
        return mounted(path.resolve(), Path("/proc/mounts").read_text())
    said = subprocess.run(["/sbin/mount"], capture_output=True, text=True, timeout=5, check=False).stdout
    rows = [re.fullmatch(r".* on (.+) \((\w+).*\)", row) for row in said.splitlines()]
    return mounted(
        path.resolve(), "\n".join(f"- {match[1].replace(' ', chr(92) + '040')} {match[2]}" for match in rows if match)
    )


def ignores_case(folder: Path) -> bool:
    """Whether this machine's file system ignores the case of names in a folder, tried with a name that exists."""
    for value in [folder, *(folder.iterdir() if folder.is_dir() else ())]:
        other = value.with_name(value.name.swapcase())
        if other.name != value.name:
            return bool(other.exists() and other.samefile(value))
    return False


def file_systems(root: tuple[str, bool], state: str) -> Finding:
    """Makes the doctor's finding about the file systems that the files and the state directory are on. Pure.

    `root`: the type of the files' file system, and whether it ignores case; `state`: the type of the state directory's.
    """
    parts: list[Judgement] = []
    if state.startswith(NETWORK):
        said = f"the state directory is on {state}: SQLite's locks do not hold there, and the ledger may be damaged"
        parts.append(("bad", said, "give [state] dir a folder on a local disk"))
    if root[0].startswith(NETWORK):
        said = f"the files are on {root[0]}: changes by other machines raise no events here"
        parts.append(("note", said, "bridge run --poll"))
    if root[1]:
        said = "the files' disk ignores case: `A.log` and `a.log` are one file"
        parts.append(("note", said, "mirrored names that differ in case alone get their entry's ID added"))
    return worst("file systems", parts or [("good", f"files on {root[0]}, state on {state}", "")])


# -- other programs ------------------------------------------------------------------------------------------


def writers(found: Sequence[tuple[str, str, bool]]) -> Finding:
    """Makes the doctor's finding about programs that have a log open for writing without O_APPEND. Pure.

    `found`: program, file, and whether the program appends, of every program that has a log open for writing.
    """
    bad = [(program, file) for program, file, appends in found if not appends]
    if bad:
        named = ", ".join(f"{program} ({file})" for program, file in sorted(set(bad))[:3])
        said = f"written without O_APPEND, so lines that the mirror appends may be written over: {named}"
        return Finding("writers", "bad", said, "let it open the file to append ('a'), or cut it over before you mirror")
    if not found:
        return Finding("writers", "good", "no program has a log open for writing at this moment")
    many = counted(len({program for program, _, _ in found}), "program")
    return Finding("writers", "good", f"open for writing by {many}, always to append")


def look_at_writers(logs: Iterable[Path]) -> Finding:
    """Checks for the doctor, by Linux's /proc, which programs have the given logs open for writing, and in which mode.

    The finding is "unknown" where the system has no /proc.
    """
    if not Path("/proc/self/fdinfo").exists():
        return Finding("writers", "unknown", "this system does not tell how files are opened")
    folders: dict[Path, Path] = {}
    names: dict[str, str] = {}
    for path in logs:  # a folder is resolved once: each resolve asks the system about all parents
        folder = folders.get(path.parent) or folders.setdefault(path.parent, path.parent.resolve())
        names[str(path.resolve() if path.is_symlink() else folder / path.name)] = path.name
    found = []
    for process, number, link in _descriptors():
        if link not in names or process == os.getpid():
            continue
        try:
            info = Path(f"/proc/{process}/fdinfo/{number}").read_text()
            program = Path(f"/proc/{process}/comm").read_text().strip()
        except OSError:
            continue
        flags = int(re.findall(r"^flags:\s*(\d+)", info, re.MULTILINE)[0], 8)
        if flags & os.O_ACCMODE != os.O_RDONLY:
            found.append((f"{program}, process {process}", names[link], bool(flags & os.O_APPEND)))
    return writers(found)


def copytruncate(configuration: str) -> list[str]:
    """Lists the path patterns that a logrotate configuration rotates by `copytruncate`. Pure."""
    text = re.sub(r"(?m)#.*$", "", configuration)
    blocks = re.findall(r"([^{}]*)\{([^{}]*)\}", text)
    outside = re.sub(r"[^{}\n]*\{[^{}]*\}", "", text)
    always = bool(re.search(r"^\s*copytruncate\b", outside, re.MULTILINE))
    found = []
    for head, body in blocks:
        told = re.findall(r"^\s*(no)?copytruncate\b", body, re.MULTILINE)
        if (told and told[-1] != "no") or (always and not told):
            found += [name for word in head.split() if (name := word.strip("\"'")).startswith("/")]
    return found


def rotation(logs: Iterable[Path], configurations: Iterable[str]) -> Finding:
    """Makes the doctor's finding about logs that logrotate copies and truncates in place (`copytruncate`). Pure."""
    patterns = [pattern for text in configurations for pattern in copytruncate(text)]
    hit = sorted({str(log) for log in logs for pattern in patterns if fnmatch(str(log), pattern)})
    if hit:
        said = (
            f"logrotate copies and empties {', '.join(hit[:3])} (copytruncate): lines that are written between the two"
            " are lost before anybody can read them"
        )
        return Finding(
            "rotation", "bad", said, "use `create` instead of `copytruncate`: renamed files are read to their ends"
        )
    return Finding("rotation", "good", "no log of these is emptied in place by logrotate, as far as it tells")


def _rotators(places: Iterable[str]) -> list[str]:
    found = []
    for place in map(Path, places):
        for path in sorted(place.iterdir()) if place.is_dir() else [place]:
            try:
                found.append(path.read_text(errors="replace"))
            except OSError:
                continue
    return found


def examine(settings: Settings, rotators: Sequence[str] = ROTATORS) -> tuple[list[Finding], dict[str, list[Path]]]:
    """Runs all of the doctor's checks of this machine; returns the findings, and the files of each mapping by its name.

    `rotators`: the files and folders that hold logrotate's configuration.
    """
    try:
        files = files_of(settings)
    except (OSError, SourceError) as error:
        return [Finding("permissions", "bad", str(error), "let the bridge's user read it")], {}
    logs = [path for mapping in settings.mappings if mapping.kind.appended for path in files[mapping.name]]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    state = settings.state_dir if settings.state_dir.exists() else settings.path.parent
    findings = [
        permissions(settings, files),
        disk([settings.root, state]),
        descriptors(len(logs), soft, hard),
        asked("inotify", lambda: look_at_inotify(settings, files)),
        asked(
            "file systems",
            lambda: file_systems((_kind_of(settings.root), ignores_case(settings.root)), _kind_of(state)),
        ),
        asked("writers", lambda: look_at_writers(logs)),
        rotation(logs, _rotators(rotators)),
    ]
    return findings, files
