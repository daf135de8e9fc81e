"""Saved artifacts: each new or replaced file is announced once, by its path, its digest and what it is."""

from __future__ import annotations

import hashlib
import os
import struct
import sys
from pathlib import Path
from threading import Event

import pytest

from bridge.core.path_rules import Paths
from bridge.files.artifact_digest import type_of
from bridge.ledger.spool_messages import GONE_INODE
from bridge.ledger.store import Ledger
from bridge.parity.result import ParityResult
from bridge.streams.reader import entries
from tests.conftest import BINARIES
from tests.support.inbox import Inbox
from tests.support.rig import Rig, wait_until

ARTIFACTS = "hestai:artifacts"
SOAK = bool(os.environ.get("BRIDGE_SOAK"))
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + b"\0" * 17


class Artifacts:
    """The folder of one rig."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.folder = rig.root / "artifacts"
        self.folder.mkdir()
        rig.write_config(mapping="hestai-artifacts")

    def save(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        hidden = path.with_name(".saving")
        hidden.write_bytes(data)
        hidden.rename(path)
        return path

    def found(self) -> list[dict[str, bytes]]:
        return [
            {name.decode(): value for name, value in zip(entry.fields[0::2], entry.fields[1::2], strict=True)}
            for entry in entries(self.rig.redis, ARTIFACTS.encode())
        ]

    def until(self, count: int) -> list[dict[str, bytes]]:
        wait_until(lambda: len(self.found()) >= count, lambda: f"{count}: {self.found()} {self.rig.said()}")
        return self.found()

    def parity(self) -> ParityResult:
        return Inbox.parity(self)  # type: ignore[arg-type]


@pytest.fixture
def artifacts(rig: Rig) -> Artifacts:
    return Artifacts(rig)


@pytest.fixture
def one_artifacts(one_rig: Rig) -> Artifacts:
    return Artifacts(one_rig)


def test_a_removed_file_that_is_made_again_is_new(one_artifacts: Artifacts) -> None:
    """It is announced anew; not so one that is replaced by the same bytes, or comes back with its bytes and its time."""
    path = one_artifacts.save("wind/plot.png", PNG)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    child = one_artifacts.rig.ready(one_artifacts.rig.start())
    one_artifacts.until(1)
    wait_until(lambda: removed(one_artifacts), one_artifacts.rig.said)
    back = one_artifacts.folder / "wind" / ".back"
    back.write_bytes(PNG)
    os.utime(back, (1_700_000_000, 1_700_000_000))
    back.rename(path)
    wait_until(lambda: noted(one_artifacts), one_artifacts.rig.said)
    wait_until(lambda: removed(one_artifacts), one_artifacts.rig.said)
    one_artifacts.save("wind/plot.png", PNG)
    first, second = one_artifacts.until(2)
    assert (first["path"], first["sha256"]) == (second["path"], second["sha256"])
    one_artifacts.save("wind/plot.png", PNG)
    one_artifacts.save("wind/other.png", PNG)
    assert [told["path"][-9:] for told in one_artifacts.until(3)] == [b"/plot.png", b"/plot.png", b"other.png"]
    one_artifacts.rig.stop(child)
    assert not one_artifacts.rig.once().forwarded
    result = one_artifacts.parity()
    assert (result.verdict, len(one_artifacts.found())) == ("equal", 3), result.tally


def removed(one_artifacts: Artifacts) -> bool:
    """Removes the file, and puts it back if nobody saw that: a new folder is watched a moment later."""
    (one_artifacts.folder / "wind" / "plot.png").unlink()
    try:
        wait_until(lambda: not noted(one_artifacts), "the removal", 1)
    except AssertionError:
        one_artifacts.save("wind/plot.png", PNG)
        return False
    return True


def noted(one_artifacts: Artifacts) -> bool:
    """Whether the ledger knows all files as being there."""
    ledger = Ledger(one_artifacts.rig.state / "ledger.db")
    try:
        return not ledger.rows("SELECT 1 FROM spool_files WHERE inode = ?", (GONE_INODE,))
    finally:
        ledger.close()


def test_new_and_replaced_files_are_announced(artifacts: Artifacts) -> None:
    """An entry for each new file and each new content of it; touching or moving nothing says nothing."""
    path = artifacts.save("wind/plot.png", PNG)
    child = artifacts.rig.ready(artifacts.rig.start())
    [first] = artifacts.until(1)
    assert first == {
        "role": b"wind", "timestamp": first["timestamp"], "type": b"artifact_saved", "data": str(path).encode(),
        "path": str(path).encode(), "artifact_type": b"image", "size": b"%d" % len(PNG),
        "sha256": hashlib.sha256(PNG).hexdigest().encode(), "origin": b"1.1:0",
    }  # fmt: skip
    os.utime(path)
    artifacts.save("wind/plot.png", PNG + b"more")
    second = artifacts.until(2)[1]
    assert (second["path"], second["size"]) == (first["path"], b"%d" % (len(PNG) + 4))
    artifacts.save("other.txt", PNG)
    third = artifacts.until(3)[2]
    assert (third["artifact_type"], third["role"]) == (b"image", b"artifacts")
    artifacts.rig.stop(child)
    result = artifacts.parity()
    assert (result.verdict, result.artifacts) == (
        "equal", {"present": 2, "changed": 0, "gone": 0, "never_announced": 0},
    )  # fmt: skip


def test_equal_contents_are_two(one_artifacts: Artifacts) -> None:
    """Two artifacts of equal content are two."""
    one_artifacts.save("a.bin", b"\0\1same")
    one_artifacts.save("b.bin", b"\0\1same")
    one_artifacts.rig.once()
    found = one_artifacts.found()
    assert [Path(os.fsdecode(each["path"])).name for each in found] == ["a.bin", "b.bin"]
    assert found[0]["sha256"] == found[1]["sha256"]


def test_large_files_are_hashed_aside(one_artifacts: Artifacts) -> None:
    """A large file is announced when its digest is known; one that is deleted or changed before is not."""
    data = os.urandom(1 << 20) * 20
    one_artifacts.save("large.bin", data)
    child = one_artifacts.rig.ready(one_artifacts.rig.start())
    assert one_artifacts.until(1)[0]["sha256"] == hashlib.sha256(data).hexdigest().encode()
    gone = one_artifacts.save("gone.bin", data + b"!")
    gone.unlink()
    one_artifacts.save("small.txt", b"hello")
    assert one_artifacts.until(2)[1]["artifact_type"] == b"text"
    one_artifacts.rig.stop(child)
    assert len(one_artifacts.found()) == 2


def test_a_file_that_is_written_still_is_not_announced(one_artifacts: Artifacts) -> None:
    """A download that a program has open, or that has a temporary name, waits."""
    child = one_artifacts.rig.ready(one_artifacts.rig.start())
    (one_artifacts.folder / "x.part").write_bytes(b"part")
    with (one_artifacts.folder / "video.mp4").open("wb", buffering=0) as file:
        file.write(b"\x00\x00\x00\x18ftypmp42")
        one_artifacts.save("quick.txt", b"quick")
        one_artifacts.until(1)
        file.write(b"more")
    found = one_artifacts.until(2)
    one_artifacts.rig.stop(child)
    assert [(each["artifact_type"], each["size"]) for each in found] == [(b"text", b"5"), (b"video", b"16")]


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take UTF-8 alone")
def test_odd_names_and_no_regular_files(one_artifacts: Artifacts) -> None:
    """Any name is announced byte for byte; links, FIFOs and sockets are never opened."""
    one_artifacts.save(os.fsdecode(b"caf\xe9 \n.txt"), b"x")
    os.mkfifo(one_artifacts.folder / "pipe")
    (one_artifacts.folder / "link").symlink_to("/etc/passwd")
    (one_artifacts.folder / "out").symlink_to("/etc")
    one_artifacts.rig.once()
    assert [each["path"] for each in one_artifacts.found()] == [os.fsencode(one_artifacts.folder) + b"/caf\xe9 \n.txt"]
    assert one_artifacts.parity().verdict == "equal"


def test_paths_mean_the_same_to_the_reader(one_artifacts: Artifacts) -> None:
    """The rules of [[paths]] are applied on the way over, and undone by parity."""
    rules = f'[[paths]]\nfrom = "{one_artifacts.rig.root}"\nto = "/data/hestai"\n'
    one_artifacts.rig.write_config(mapping="hestai-artifacts", extra=rules)
    one_artifacts.save("a.txt", b"x")
    one_artifacts.rig.once()
    assert one_artifacts.found()[0]["path"] == b"/data/hestai/artifacts/a.txt"
    assert one_artifacts.parity().artifacts == {"present": 1, "changed": 0, "gone": 0, "never_announced": 0}


def test_rules() -> None:
    """The longest rule counts, at a folder's border; a rule undone gives the path back."""
    paths = Paths.of([("/a", "/x"), ("/a/b/", "/y"), ("/", "/host")])
    assert paths.over(b"/a/b/c") == b"/y/c"
    assert paths.over(b"/a/bc") == b"/x/bc"
    assert paths.over(b"/a") == b"/x"
    assert paths.over(b"/etc/x") == b"/host/etc/x"
    for path in (b"/a/b/c", b"/a/bc", b"/a", b"/etc/x"):
        assert paths.back(paths.over(path)) == path


def test_redis_lost_it(artifacts: Artifacts) -> None:
    """What Redis lost is announced again, once; what was not lost is not."""
    for n in range(3):
        artifacts.save(f"{n}.txt", b"%d" % n)
    artifacts.rig.once()
    artifacts.rig.redis.call("FLUSHALL")
    artifacts.save("new.txt", b"new")
    artifacts.rig.once()
    assert sorted(Path(os.fsdecode(each["path"])).name for each in artifacts.found()) == [
        "0.txt", "1.txt", "2.txt", "new.txt",
    ]  # fmt: skip
    assert artifacts.rig.once().forwarded == 0


def test_parity(one_artifacts: Artifacts) -> None:
    """Changed and gone since are told; a forged announcement, and one that was removed, are differences."""
    for name in ("same", "changed", "gone", "removed"):
        one_artifacts.save(name, name.encode())
    one_artifacts.rig.once()
    (one_artifacts.folder / "changed").write_bytes(b"other")
    (one_artifacts.folder / "gone").unlink()
    stream = list(entries(one_artifacts.rig.redis, ARTIFACTS.encode()))
    removed = next(each for each in stream if each.fields[7].endswith(b"removed"))
    one_artifacts.rig.redis.call("XDEL", ARTIFACTS, b"%d-%d" % removed.id)
    fields = [*stream[0].fields]
    fields[7] = fields[9] = b"/etc/passwd"
    one_artifacts.rig.redis.call("XADD", ARTIFACTS, "*", *fields)
    result = one_artifacts.parity()
    assert result.artifacts == {"present": 1, "changed": 1, "gone": 1, "never_announced": 1}
    kinds = sorted((each.kind, Path(each.file or "").name) for each in result.tally.differences)
    assert (result.verdict, kinds) == ("differs", [("missing_in_file", "passwd"), ("missing_in_redis", "removed")])


POINTS = ("spool.due", "spool.batch", "spool.landed", "forward.send", "forward.reply", "forward.checkpoint")


@pytest.mark.parametrize("when", ["before", "after"] if SOAK else ["after"])
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("binary", BINARIES if SOAK else BINARIES[:1], ids=lambda binary: binary.flavour)
def test_killed_at(rig: Rig, point: str, when: str) -> None:
    """A kill at this point forgets no artifact and announces none twice."""
    artifacts = Artifacts(rig)
    child, n = rig.start(crash=f"{point}.{when}:2"), 0
    while child.poll() is None:
        artifacts.save(f"{n:04}", b"%d" % n)
        n += 1
        Event().wait(0.02)
    again = rig.start()
    for more in range(n, n + 10):
        artifacts.save(f"{more:04}", b"%d" % more)
    artifacts.until(n + 10)
    rig.stop(again)
    assert sorted(Path(os.fsdecode(each["path"])).name for each in artifacts.found()) == [
        f"{i:04}" for i in range(n + 10)
    ]  # fmt: skip
    assert artifacts.parity().verdict == "equal"


def test_a_folder_that_is_a_link_elsewhere(one_artifacts: Artifacts) -> None:
    """Artifacts that a link leads to outside the root are not read."""
    outside = one_artifacts.rig.path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("secret")
    one_artifacts.folder.rmdir()
    one_artifacts.folder.symlink_to(outside)
    done = one_artifacts.rig.once()
    assert (done.forwarded, len(done.errors)) == (0, 1)


def test_a_rule_that_comes_later(one_artifacts: Artifacts) -> None:
    """What was announced under the path of before is the same file."""
    one_artifacts.save("a.txt", b"x")
    one_artifacts.rig.once()
    one_artifacts.rig.write_config(
        mapping="hestai-artifacts", extra=f'[[paths]]\nfrom = "{one_artifacts.rig.root}"\nto = "/data"\n'
    )
    result = one_artifacts.parity()
    assert (result.verdict, result.tally.compared) == ("equal", 1), result.tally


@pytest.mark.parametrize(
    ("name", "head", "expected"),
    [("x.bin", PNG, "image"), ("x.jpg", b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01", "image"),
     ("a.txt", b"RIFF\x24\x00\x00\x00WAVEfmt ", "audio"), ("v.mp4", b"\x00\x00\x00\x18ftypmp42", "video"),
     ("m", b"GGUF\x03\0\0\0", "model"), ("s.safetensors", struct.pack("<Q", 20) + b'{"__metadata__"', "model"),
     ("net.pt", b"PK\x03\x04", "model"), ("t.md", b"# hello\n", "text"), ("noname", "caf\u00e9".encode(), "text"),
     ("j.json", b'{"a": 1}', "data"), ("c.csv", b"a,b\n1,2\n", "data"), ("l.jsonl", b'{"a": 1}\n', "data"),
     ("z.zip", b"PK\x03\x04aaaa", "data"), ("x", b"\x01\x02\x03", "other"), ("p.pdf", b"%PDF-1.7", "other"),
     ("empty", b"", "other"), ("empty.txt", b"", "text")],
)  # fmt: skip
def test_types(name: str, head: bytes, expected: str) -> None:
    """Content tells first, then the name."""
    assert type_of(head, name) == expected


def test_an_older_file_in_its_place(one_artifacts: Artifacts) -> None:
    """What replaces a file comes after it, be its own time older; and both come once, although Redis was away."""
    one_artifacts.save("m.bin", b"first")
    one_artifacts.rig.once()
    child = one_artifacts.rig.ready(one_artifacts.rig.start())
    one_artifacts.rig.kill_server()
    one_artifacts.save("m.bin", b"new")
    wait_until(lambda: due(one_artifacts) == 1, one_artifacts.rig.said)
    hidden = one_artifacts.folder / ".old"
    hidden.write_bytes(b"old")
    os.utime(hidden, (1_600_000_000, 1_600_000_000))
    hidden.rename(one_artifacts.folder / "m.bin")
    wait_until(lambda: due(one_artifacts) == 2, one_artifacts.rig.said)
    one_artifacts.rig.start_server()
    one_artifacts.until(3)
    one_artifacts.rig.stop(child)
    one_artifacts.rig.once()
    wanted = [hashlib.sha256(data).hexdigest().encode() for data in (b"first", b"new", b"old")]
    assert [each["sha256"] for each in one_artifacts.found()] == wanted


def due(one_artifacts: Artifacts) -> int:
    """How many announcements of `m.bin` are not known to be in."""
    ledger = Ledger(one_artifacts.rig.state / "ledger.db")
    try:
        return len(ledger.rows("SELECT 1 FROM spool_due WHERE CAST(name AS TEXT) = 'artifacts/m.bin'"))
    finally:
        ledger.close()


def test_planted_in_the_announcements(one_artifacts: Artifacts) -> None:
    """Parity names an announcement that is there twice, one that was altered, and a later one that is missing."""
    for name in ("a", "b", "c"):
        one_artifacts.save(name, name.encode())
        one_artifacts.rig.once()
    one_artifacts.save("c", b"anew")
    one_artifacts.rig.once()
    assert one_artifacts.parity().verdict == "equal"
    stream = list(entries(one_artifacts.rig.redis, ARTIFACTS.encode()))
    one_artifacts.rig.redis.call("DEL", ARTIFACTS)
    stream[0].fields[1] = b"EVIL"
    for each in (*stream[:3], stream[1]._replace(id=(stream[3].id[0] + 1, 0))):
        one_artifacts.rig.redis.call("XADD", ARTIFACTS, b"%d-%d" % each.id, *each.fields)
    result = one_artifacts.parity()
    kinds = [(each.kind, Path(each.file or "").name) for each in result.tally.differences]
    assert kinds == [("duplicate", "b"), ("altered", "a"), ("missing_in_redis", "c")]


def test_a_time_to_come(one_artifacts: Artifacts) -> None:
    """A file whose time of writing is to come is announced before what replaces it."""
    child = one_artifacts.rig.ready(one_artifacts.rig.start())
    one_artifacts.save("first", b"")
    one_artifacts.until(1)
    one_artifacts.rig.kill_server()
    hidden = one_artifacts.folder / ".new"
    hidden.write_bytes(b"one")
    os.utime(hidden, (1_900_000_000, 1_900_000_000))
    hidden.rename(one_artifacts.folder / "m.bin")
    wait_until(lambda: due(one_artifacts) == 1, one_artifacts.rig.said)
    one_artifacts.save("m.bin", b"two")
    wait_until(lambda: due(one_artifacts) == 2, one_artifacts.rig.said)
    one_artifacts.rig.start_server()
    one_artifacts.until(3)
    one_artifacts.rig.stop(child)
    wanted = [hashlib.sha256(data).hexdigest().encode() for data in (b"", b"one", b"two")]
    assert [each["sha256"] for each in one_artifacts.found()] == wanted
