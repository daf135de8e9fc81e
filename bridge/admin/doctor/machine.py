"""This machine: room, rights, what the system allows, and what other programs do with the files."""

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
"""Beginnings of the names of file systems whose files other machines may change without an event here."""

LOW, FULL_SHARE = 1 << 30, 0.05
"""Bytes, and share of a disk, below which it is nearly full."""

ROTATORS = ("/etc/logrotate.conf", "/etc/logrotate.d", "/usr/local/etc/logrotate.d", "/opt/homebrew/etc/logrotate.d")


def files_of(settings: Settings) -> dict[str, list[Path]]:
    """The files there are of each mapping, by its name."""
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
    """Whether what is to be read may be read, what is to be written may be written, and nobody else reads ours."""
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
    """Room on the disks of these folders."""
    parts: list[Judgement] = []
    for device in {folder.stat().st_dev: folder for folder in folders if folder.exists()}.values():
        usage = shutil.disk_usage(device)
        low = usage.free < LOW or usage.free < FULL_SHARE * usage.total
        said = f"{size(usage.free)} free at {device}"
        parts.append(("bad", said, "make room: when it is full the bridge waits") if low else ("good", said, ""))
    return worst("disk", parts)


# -- what the system allows ----------------------------------------------------------------------------------


def descriptors(files: int, soft: int, hard: int) -> Finding:
    """Whether so many files may be held open. Pure."""
    wanted = files + 64
    may = "any number of" if hard == resource.RLIM_INFINITY else f"{hard:,}"
    said = f"{counted(files, 'file')} to hold open, and {may} may be (now {soft:,})"
    if hard != resource.RLIM_INFINITY and hard < wanted:
        return Finding("descriptors", "bad", said, f"ulimit -Hn {2 * wanted}, or LimitNOFILE in its service")
    return Finding("descriptors", "good", said)


def inotify(watches: int, most_watches: int, instances: int, most_instances: int) -> Finding:
    """Linux: `watches` that the bridge needs, `instances` that this user has open already. Pure."""
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
    """Checks whether this machine lets a bridge watch the folders of each mapping's files for changes."""
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
    """Linux: process, number and target of each descriptor that this user may see."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            links = [(path.name, str(path.readlink())) for path in list((process / "fd").iterdir())]
        except OSError:  # another user's, or gone by now
            continue
        yield from ((int(process.name), number, link) for number, link in links)


# -- file systems --------------------------------------------------------------------------------------------


def mounted(path: Path, table: str) -> str:
    """The type of the file system that a path is on, by /proc/mounts. Pure."""
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
    """Whether names that differ in case alone are one there, told by a name that is there."""
    for value in [folder, *(folder.iterdir() if folder.is_dir() else ())]:
        other = value.with_name(value.name.swapcase())
        if other.name != value.name:
            return bool(other.exists() and other.samefile(value))
    return False


def file_systems(root: tuple[str, bool], state: str) -> Finding:
    """`root`: the type of the file system of the files, and whether it ignores case; and of the state. Pure."""
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
    """Program, file, and whether it appends, of those that have a log open for writing. Pure."""
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
    """Checks how programs have these logs open for writing at this moment, as Linux tells."""
    if not Path("/proc/self/fdinfo").exists():
        return Finding("writers", "unknown", "this system does not tell how files are opened")
    folders: dict[Path, Path] = {}
    names: dict[str, str] = {}
    for path in logs:  # of thousands in a folder each would ask for all of its parents
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
    """The paths that a logrotate configuration copies and empties. Pure."""
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
    """Logs that logrotate empties in place. Pure."""
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
    """All checks of this machine, and the files of each mapping."""
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
