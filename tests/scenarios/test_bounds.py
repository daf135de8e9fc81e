"""No promise has a silent bound, and what cannot be noted is its source's trouble: names, identities, paths, versions."""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bridge.core.errors import ConfigError
from bridge.engine.forward import Forward
from bridge.files.artifact_digest import hashed
from bridge.files.descriptor_pool import DeletedWhileParked, DescriptorPool, PooledFile
from bridge.kinds.log import target as append
from bridge.kinds.mapping_context import MappingContext
from bridge.ledger.store import Ledger
from bridge.ledger.troubles import Troubles
from bridge.streams.connect import Connection
from tests.continuity.test_time_going_back import put_back
from tests.files.test_rotation import rotate
from tests.kinds.test_artifacts import Artifacts
from tests.kinds.test_state import Values
from tests.scenarios.test_everything import MAPPINGS
from tests.scenarios.test_raised import injected
from tests.support.inbox import Inbox, document
from tests.support.rig import STREAM, Rig, wait_until


def test_a_name_that_is_no_utf8(one_rig: Rig) -> None:
    """A state's file whose name is not UTF-8 goes over with its history, beside the others."""
    values = Values(one_rig, history=True)
    with open(os.fsencode(values.folder) + b"/\xff\xfe", "wb") as file:
        file.write(b"odd")
    values.save(b"even", "even")
    child = one_rig.start()
    wait_until(lambda: len(values.entries()) == 2, one_rig.said)
    assert one_rig.redis.call("HGET", os.fsencode(values.key("")) + b"\xff\xfe", "data") == b"odd"
    one_rig.stop(child)
    assert not one_rig.once().errors


def test_a_version_never_goes_back(one_rig: Rig) -> None:
    """What Redis lost of a state comes back with a higher version than any before."""
    values = Values(one_rig)
    child = one_rig.start()
    for n in range(5):
        values.save(b"%d" % n)
        values.until(b"%d" % n)
    before = int(values.hash()[b"version"])
    one_rig.redis.call("DEL", values.key())
    values.until(b"4")
    assert int(values.hash()[b"version"]) > before
    one_rig.stop(child)


def test_two_files_with_one_identity(one_rig: Rig) -> None:
    """The one that was written first counts, in whatever order they are met, and after a loss as well."""
    inbox = Inbox(one_rig)
    for n in range(40):
        for name, words in ((f"b{n}.json", "first"), (f"a{n}.json", "second")):
            path = inbox.move_in(name, document(f"m-{n}", at=n, note=words))
            when = 1_700_000_000 + n + (words == "second")
            os.utime(path, (when, when))

    def carried() -> list[bytes]:
        return [entry.fields[7] for entry in inbox.entries()]

    for _ in range(2):
        wait_until(lambda: one_rig.once() is not None and len(carried()) == 40, one_rig.said)
        assert all(b'"first"' in data for data in carried()), carried()
        one_rig.redis.call("FLUSHALL")


@pytest.mark.parametrize(
    ("rules", "fine"),
    [
        ([("/a", "/x"), ("/b", "/x")], False),
        ([("/a", "/x"), ("/b", "/x/sub")], False),
        ([("/a", "/x"), ("/a", "/y")], False),
        ([("/a", "/x"), ("/a/sub", "/x/sub"), ("/b", "/y")], True),
        ([("/a", "/x"), ("/a/sub", "/elsewhere"), ("/b", "/x/sub")], True),
    ],
)
def test_paths_are_one_to_one(one_rig: Rig, rules: list[tuple[str, str]], fine: bool) -> None:
    """Rules by which two files would have one name are refused at start."""
    one_rig.write_config(extra="".join(f'[[paths]]\nfrom = "{a}"\nto = "{b}"\n' for a, b in rules))
    if fine:
        one_rig.settings()
        return
    with pytest.raises(ConfigError, match=r"one name|twice"):
        one_rig.settings()


def test_a_rule_leads_to_a_folder_of_the_root(one_rig: Rig) -> None:
    """A rule may not give a file the name of one that lies there."""
    root = one_rig.root
    one_rig.write_config(extra=f'[[paths]]\nfrom = "{root}/a"\nto = "{root}/b"\n')
    with pytest.raises(ConfigError, match="one name"):
        one_rig.settings()


def test_a_folder_becomes_a_link_before_a_file_is_hashed(tmp_path: Path) -> None:
    """What counts is where the file lies that was opened: nothing outside is hashed."""
    outside, inside = tmp_path / "outside", tmp_path / "root" / "folder"
    outside.mkdir()
    inside.mkdir(parents=True)
    (outside / "secret").write_bytes(b"secret")
    (inside / "secret").write_bytes(b"mine")
    path = os.fsencode(os.path.realpath(inside)) + b"/secret"
    found = hashed(path)
    assert found is not None
    (inside / "secret").unlink()
    inside.rmdir()
    inside.symlink_to(outside)
    assert hashed(path) is None


def deleted(rig: Rig) -> None:
    rig.log.unlink()


def saved(rig: Rig) -> None:
    """As an editor does: the same content under another inode."""
    hidden = rig.root / ".saved"
    shutil.copy2(rig.log, hidden)
    hidden.rename(rig.log)


def packed(rig: Rig) -> None:
    """As gzip does, which deletes what it has read."""
    rig.log.with_name("messages.log.1.gz").write_bytes(gzip.compress(rig.log.read_bytes()))
    rig.log.unlink()


@pytest.mark.parametrize("act", [deleted, saved, packed], ids=lambda act: act.__name__)
def test_a_file_that_loses_its_name_before_the_write(
    one_rig: Rig, monkeypatch: pytest.MonkeyPatch, act: Callable[[Rig], None]
) -> None:
    """Lines that the mirror writes to a file which nobody can open any more are written again, to one that has a name."""
    rig = one_rig
    rig.append("f-0", "f-1")
    assert not rig.once().errors
    left = [act]

    def reached(point: str) -> None:
        if point == "mirror.write.before" and left:
            left.pop()(rig)

    monkeypatch.setattr(append, "failpoint", reached)
    rig.add("r-0")
    rig.add("r-1")
    assert not rig.once().errors
    rig.append("f-2")
    assert not rig.once().errors
    assert not left
    assert [line[-3:] for line in rig.lines() if line[-3:-1] == b"r-"] == [b"r-0", b"r-1"]
    assert sorted(rig.datas()) == [b"f-0", b"f-1", b"f-2", b"r-0", b"r-1"]


@pytest.mark.parametrize("direction", ["forward", "mirror"])
def test_a_server_that_cuts_long_replies(rig: Rig, direction: str) -> None:
    """Where the server gives only so many bytes at once, pages become small enough; nobody starves, and all is carried."""
    for n in range(100):
        if direction == "mirror":
            rig.add(f"r-{n}-" + "x" * 50_000)
        else:
            rig.append(f"f-{n}-" + "x" * 50_000)
    if direction == "forward":  # it compares what stands beyond a checkpoint that was lost
        assert not rig.once().errors
        rig.redis.call("DEL", f"bridge:{{{STREAM}}}:checkpoint")
    rig.redis.call("CONFIG", "SET", "client-output-buffer-limit", "normal 500kb 0 0")
    rig.append("f-last")
    child = rig.start()
    wait_until(lambda: len(rig.lines()) == 101 and rig.redis.call("XLEN", STREAM) == 101, lambda: rig.said()[-3000:])
    wait_until(lambda: rig.run("parity", "--redis", rig.url).returncode == 0, lambda: rig.run("parity").stdout, 20)
    rig.redis.call("CONFIG", "SET", "client-output-buffer-limit", "normal 0 0 0")
    rig.stop(child)
    assert rig.parity().verdict == "equal"


def test_a_parked_file_that_is_renamed_as_it_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found under the name that it has then, and counts as deleted only when nothing moved."""
    pool = DescriptorPool(1)
    for name in ("l.1", "other"):
        (tmp_path / name).write_bytes(name.encode())
    parked = PooledFile(os.open(tmp_path / "l.1", os.O_RDONLY), tmp_path / "l.1", pool)
    other = PooledFile(os.open(tmp_path / "other", os.O_RDONLY), tmp_path / "other", pool)
    (tmp_path / "l.1").rename(tmp_path / "l.2")
    real, left = os.scandir, [(4, 5), (3, 4), (2, 3)]

    @contextmanager
    def scandir(folder: Path) -> Iterator[list[os.DirEntry[str]]]:
        with real(folder) as found:
            listed = [*found]
        if left:
            before, after = left.pop()
            (tmp_path / f"l.{before}").rename(tmp_path / f"l.{after}")
        yield listed

    monkeypatch.setattr(os, "scandir", scandir)
    assert parked.read(10, 0) == b"l.1"
    assert not left
    assert other.read(10, 0) == b"other"
    (tmp_path / "l.5").unlink()
    with pytest.raises(DeletedWhileParked):
        parked.read(10, 0)
    parked.close()
    other.close()


def test_what_nobody_can_look_at_is_not_gone(one_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """An artifact of which the system does not say whether it is there is no removed one, and is announced once."""
    artifacts = Artifacts(one_rig)
    path = artifacts.save("wind/plot.txt", b"plot")
    assert not one_rig.once().errors
    settings = one_rig.settings()
    shared, ledger = MappingContext(settings.mappings[0], settings), Ledger(one_rig.state / "ledger.db")
    try:
        forward = Forward(shared, ledger, Troubles(time.time), time.time, lambda: Connection(one_rig.url))
        forward.look()
        real, left = os.lstat, [errno.EIO, errno.EACCES]

        def lstat(name: Any, **more: Any) -> os.stat_result:
            if left and os.fsencode(name) == os.fsencode(path):
                raise OSError(left.pop(), "not now")
            return real(name, **more)

        monkeypatch.setattr(os, "lstat", lstat)
        for _ in range(2):
            forward.look({str(path)})
        assert not left
        os.utime(path)
    finally:
        ledger.close()
    for _ in range(2):
        assert not one_rig.once().errors
    assert len(artifacts.found()) == 1


def test_more_mappings_and_pieces_than_descriptors(one_rig: Rig) -> None:
    """A ledger from a backup is made anew from 60 pieces where seven mappings share 80 descriptors with them."""
    rig, lines = one_rig, [b"%d" % n for n in range(60)]
    rig.write_config(mapping='", "'.join(MAPPINGS))
    for data in lines:
        rig.append(data.decode())
        rotate(rig)
    child = rig.start()
    wait_until(lambda: rig.redis.call("XLEN", STREAM) == 60, rig.said)
    rig.stop(child)
    backup = rig.path / "backup"
    shutil.copytree(rig.state, backup)
    child = rig.beats(rig.start())
    rig.add("r-1")
    wait_until(lambda: len(rig.lines()) == 61, rig.said)
    rig.stop(child)
    put_back(rig, backup)
    child, _ = injected(rig, 0, 0, files=80)
    rig.append("f-more")
    rig.settle([*lines, b"f-more"], [b"r-1"])
    rig.stop(child)
