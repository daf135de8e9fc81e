"""Lines that name an artifact: their entries say where it is, and how large it was follows."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from threading import Event, Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.core.codecs.named_path import path_in, with_path
from bridge.core.model import format_id
from bridge.files.artifact_digest import looked_at
from tests.admin.test_quarantine import limit
from tests.support.project import shipped
from tests.support.rig import STREAM, Rig, wait_until

KEY = f"bridge:{{{STREAM}}}:artifacts"


def saved(rig: Rig, *datas: str | bytes) -> None:
    """Lines of the type that names artifacts, between others."""
    for data in datas:
        raw = data if isinstance(data, bytes) else data.encode()
        with rig.log.open("ab") as file:
            file.write(b"agent|2026-03-02T09:14:05.112Z|artifact_saved|" + raw + b"\n")
        rig.append("f-between")


def told(rig: Rig) -> list[dict[bytes, bytes]]:
    """The entries of those lines."""
    found = (dict(zip(entry.fields[0::2], entry.fields[1::2], strict=True)) for entry in rig.entries())
    return [fields for fields in found if fields[b"type"] == b"artifact_saved"]


def facts(rig: Rig) -> dict[bytes, dict[str, object]]:
    """What followed, by origin."""
    raw = rig.redis.call("HGETALL", KEY)
    return {origin: json.loads(value) for origin, value in zip(raw[0::2], raw[1::2], strict=True)}


def test_at_once_and_later(rig: Rig) -> None:
    """Path, type and status are in the entry; size and digest follow under its origin; the line stays as it is."""
    plot = rig.root / "out" / "plot.png"
    plot.parent.mkdir()
    plot.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 50)
    saved(
        rig,
        "out/plot.png",
        json.dumps({"path": str(plot), "note": "x|y"}),
        "out/later.txt",
        "/etc/passwd",
        str(rig.state / "ledger.db"),
        "a\x00b",
        '{"n": 1}',
    )
    before = rig.log.read_bytes()
    rig.once()
    assert rig.log.read_bytes() == before
    found = told(rig)
    path = str(plot).encode()
    assert [(fields.get(b"path"), fields.get(b"artifact_type"), fields.get(b"artifact_status")) for fields in found] == [
        (path, b"image", b"present"), (path, b"image", b"present"),
        (str(rig.root / "out/later.txt").encode(), b"text", b"missing"), (b"/etc/passwd", b"other", b"outside"),
        (str(rig.state / "ledger.db").encode(), b"data", b"outside"),
        (None, None, None), (None, None, None),
    ]  # fmt: skip
    later = facts(rig)
    assert set(later) == {found[0][b"origin"], found[1][b"origin"]}
    assert later[found[0][b"origin"]] == {
        "status": "present", "size": 58, "sha256": hashlib.sha256(plot.read_bytes()).hexdigest(),
        "artifact_type": "image", "path": str(plot),
    }  # fmt: skip
    result = rig.parity()
    assert (result.verdict, result.tally.compared) == ("equal", 14), result.tally


def test_nothing_outside_is_read(one_rig: Rig) -> None:
    """A link or `..` that leaves the root is outside; FIFOs, devices and folders are no artifacts, and never opened."""
    rig = one_rig
    secret = rig.path / "secret.txt"
    secret.write_text("secret")
    (rig.root / "link.txt").symlink_to(secret)
    (rig.root / "folder").symlink_to(rig.path)
    os.mkfifo(rig.root / "pipe")
    (rig.root / "inner.txt").write_text("inner")
    (rig.root / "fine.txt").symlink_to(rig.root / "inner.txt")
    saved(rig, "link.txt", "folder/secret.txt", "../secret.txt", "pipe", "/dev/zero", ".", "fine.txt")
    rig.once()
    assert [fields[b"artifact_status"] for fields in told(rig)] == [
        b"outside", b"outside", b"outside", b"missing", b"outside", b"missing", b"present",
    ]  # fmt: skip
    assert [artifact["size"] for artifact in facts(rig).values()] == [5]


def test_gone_before_it_was_hashed(one_rig: Rig) -> None:
    """An artifact that is deleted before its digest is taken is told to be gone."""
    rig = one_rig
    path = rig.root / "a.txt"
    path.write_text("x")
    saved(rig, "a.txt")
    child = rig.start(crash="forward.send.after:1")
    assert child.wait(60) == -9
    path.unlink()
    rig.once()
    [facts_of] = facts(rig).values()
    assert facts_of == {"status": "gone"}


@pytest.mark.parametrize("when", ["forward.send.before:1", "forward.send.after:1", "forward.checkpoint.before:1"])
def test_facts_follow_after_a_kill(one_rig: Rig, when: str) -> None:
    """A bridge that is killed before the digests were told tells them when it runs again."""
    rig = one_rig
    for n in range(5):
        (rig.root / f"{n}.txt").write_text(f"text {n}")
    saved(rig, *(f"{n}.txt" for n in range(5)))
    assert rig.start(crash=when).wait(60) == -9
    child = rig.start()
    wait_until(lambda: len(facts(rig)) == 5, lambda: f"{facts(rig)} {rig.said()}")
    rig.stop(child)
    assert sorted(str(artifact["size"]) for artifact in facts(rig).values()) == ["6"] * 5
    assert rig.parity().verdict == "equal"


def test_paths_there_and_back(rig: Rig) -> None:
    """The rules of [[paths]] are applied to the entry's path, and undone in the line of an entry that names one."""
    rig.write_config(extra=f'[[paths]]\nfrom = "{rig.root}"\nto = "/data/hestai"\n')
    (rig.root / "a.txt").write_text("x")
    saved(rig, "a.txt")
    for data in (b"/data/hestai/b.txt", b'{"path": "/data/hestai/c.txt", "n": 1.0}', b"/elsewhere/d.txt"):
        rig.redis.call("XADD", STREAM, "*", "role", "ui", "timestamp", "2026-03-02T09:14:06Z", "type", "artifact_saved",
                       "data", data)  # fmt: skip
    rig.add("/data/hestai/b.txt")
    rig.once()
    assert [fields[b"path"] for fields in told(rig) if b"path" in fields] == [b"/data/hestai/a.txt"]
    datas = [raw.split(b"|", 3)[3] for raw in rig.lines()]
    root = str(rig.root).encode()
    assert datas[2:] == [
        root + b"/b.txt", b'{"path": "%b/c.txt", "n": 1.0}' % root, b"/elsewhere/d.txt", b"/data/hestai/b.txt",
    ]  # fmt: skip
    assert not rig.once().forwarded
    result = rig.parity()
    assert (result.verdict, result.tally.compared) == ("equal", 6), result.tally


def test_a_changing_file_holds_up_no_other(one_rig: Rig) -> None:
    """Many lines that name a file which grows all the time do not keep the digest of another from being told."""
    rig, stop = one_rig, Event()
    growing = rig.root / "growing.bin"
    growing.write_bytes(b"x")
    (rig.root / "still.txt").write_text("still")

    def grow() -> None:
        with growing.open("ab", buffering=0) as file:
            while not stop.wait(0.005):
                file.write(b"x" * 1000)

    writer = Thread(target=grow)
    writer.start()
    saved(rig, *["growing.bin"] * 120, "still.txt")
    child = rig.start()
    wait_until(
        lambda: any(artifact.get("size") == 5 for artifact in facts(rig).values()), lambda: f"{facts(rig)} {rig.said()}"
    )
    stop.set()
    writer.join()
    wait_until(lambda: len(facts(rig)) == 121, lambda: f"{len(facts(rig))} {rig.said()}")
    rig.stop(child)


def test_a_fifo_is_not_opened(tmp_path: Path) -> None:
    """A program that waits for a reader of its FIFO goes on waiting."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    opened = Event()

    def write() -> None:
        os.close(os.open(pipe, os.O_WRONLY))
        opened.set()

    Thread(target=write, daemon=True).start()
    assert looked_at(os.fsencode(pipe), b"pipe") == ("missing", "other")
    assert not opened.wait(0.2)
    os.close(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))
    assert opened.wait(5)


def test_refilled(one_rig: Rig) -> None:
    """After a loss the entries come back with the same fields."""
    rig = one_rig
    (rig.root / "a.txt").write_text("x")
    saved(rig, "a.txt", "missing.txt")
    rig.once()
    before = told(rig)
    rig.redis.call("FLUSHALL")
    rig.once()
    assert told(rig) == before
    assert rig.parity().verdict == "equal"


def test_other_types(one_rig: Rig) -> None:
    """`message.artifact_types` says which messages name artifacts; none: no line is looked at."""
    rig = one_rig
    text = shipped("hestai-message")
    mapping = rig.path / "own.toml"
    mapping.write_text(text.replace("[stream]", '[message]\nartifact_types = ["turn"]\n\n[stream]'))
    rig.write_config(mapping=str(mapping))
    saved(rig, "a.txt")
    rig.append("b.txt")
    rig.once()
    assert [b"path" in entry.fields[0::2] for entry in rig.entries()] == [False, True, True]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.text(min_size=1, max_size=30).filter(lambda text: "\x00" not in text))
def test_nothing_else_changes(data: bytes, name: str) -> None:
    """Another path in a message's data changes that path alone, and gives it back."""
    encoded = name.encode("utf-8", "surrogatepass")
    for message in (data, b' {"a": 1e400, "path": %b, "b": "\xff"} ' % json.dumps(name).encode()):
        path = path_in(message)
        if path is None:
            assert with_path(message, b"/x") == message
            continue
        moved = with_path(message, b"/x" + path)
        assert path_in(moved) == b"/x" + path or b"\n" in encoded
        if message is not data:
            assert moved.startswith(b' {"a": 1e400, "path": ')
            assert moved.endswith(b', "b": "\xff"} ')


@pytest.mark.parametrize(
    ("data", "moved"),
    [
        (b'\xef\xbb\xbf{"path": "a/b"}', b'\xef\xbb\xbf{"path": "/x/a/b"}'),
        (b'{"size": ' + b"9" * 5000 + b', "path": "a/b"}', b'{"size": ' + b"9" * 5000 + b', "path": "/x/a/b"}'),
        (b"\xef\xbb\xbfa/b", b"\xef\xbb\xbf/x/a/b"),
        (b'{"path": ' + b"9" * 5000 + b"}", None),
        (b'{"path": "' + b"a" * 4097 + b'"}', None),
    ],
)
def test_odd_json(data: bytes, moved: bytes | None) -> None:
    """A mark before the JSON, and numbers of thousands of digits in it, keep no path from being found and translated."""
    path = path_in(data)
    if moved is None:
        assert path is None
    else:
        assert path == b"a/b"
        assert with_path(data, b"/x/a/b") == moved


def test_parity_of_what_lines_named(one_rig: Rig) -> None:
    """Parity of a log tells how many of the artifacts its lines named are unchanged, changed since, or gone since."""
    rig = one_rig
    for name in ("same", "changed", "gone"):
        (rig.root / f"{name}.txt").write_text(name)
    saved(rig, "same.txt", "changed.txt", "gone.txt", "never.txt")
    rig.once()
    (rig.root / "changed.txt").write_text("other")
    (rig.root / "gone.txt").unlink()
    done = rig.run("parity", "--json", "--redis", rig.server.socket_url)
    told = json.loads(done.stdout)["mappings"][0]
    assert (told["verdict"], told["artifacts"]) == ("equal", {"present": 1, "changed": 1, "gone": 1})
    assert "1 artifact changed since" in rig.run("parity", "--redis", rig.server.socket_url).stdout


@pytest.mark.parametrize("way", ["retry", "repair"])
def test_out_of_order(one_rig: Rig, way: str) -> None:
    """A line that goes over later, out of quarantine or by a repair, is told of as any other."""
    rig = one_rig
    limit(rig, 100)
    (rig.root / "late.txt").write_text("late")
    saved(rig, json.dumps({"path": "late.txt", "note": "x" * (100 if way == "retry" else 1)}))
    rig.once()
    assert len(facts(rig)) == (way == "repair")
    if way == "repair":
        rig.redis.call("XDEL", STREAM, format_id(rig.entries()[0].id))
        rig.redis.call("DEL", KEY)
        done = rig.run("repair", "--execute", "--redis", rig.server.socket_url)
    else:
        limit(rig, 1000)
        done = rig.run("quarantine", "retry", "--redis", rig.server.socket_url)
    assert done.returncode == 0, done.stderr
    rig.once()
    [entry] = told(rig)
    assert entry[b"path"] == os.fsencode(rig.root / "late.txt")
    assert (entry[b"artifact_type"], entry[b"artifact_status"]) == (b"text", b"present")
    assert facts(rig)[entry[b"origin"]]["sha256"] == hashlib.sha256(b"late").hexdigest()
    assert rig.parity().verdict == "equal"
