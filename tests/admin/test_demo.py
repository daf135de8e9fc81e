"""The demo as a user meets it: to its end, two at once, interrupted, killed; and its verdict on sides that differ."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event

import pytest

from bridge.admin.demo.players import write_redis
from bridge.admin.demo.verdict import judge
from bridge.core.model import paired
from bridge.streams.connect import Connection
from tests.support.proxy import Proxy
from tests.support.rig import STREAM, Rig, wait_until
from tests.support.terminal import on_terminal, plain


def environment(tmp: Path) -> dict[str, str]:
    """All temporary files here, and a url that the demo must not use."""
    return {"TMPDIR": str(tmp), "XDG_RUNTIME_DIR": str(tmp), "BRIDGE_REDIS_URL": "redis://127.0.0.1:1/0"}


def start(tmp: Path, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bridge", "demo", *args], cwd=tmp, env={**os.environ, **environment(tmp)}, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def left(tmp: Path) -> list[str]:
    """Files and processes that name this folder."""
    found = [str(Path(folder) / name) for folder, _, names in os.walk(tmp) for name in names]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(tmp).encode() in path.read_bytes():
                found.append(path.read_text().replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a path short enough for a socket."""
    return tmp_path_factory.mktemp("d")


def test_three_at_once(short: Path) -> None:
    """Demos at once, one of them on a terminal of 60 columns, all find every message, and leave nothing behind."""
    child, two = start(short, "--json"), start(short)
    _, seen = on_terminal(short, "demo", columns=60, env=environment(short))
    facts = json.loads(child.communicate(timeout=90)[0])
    text, said = two.communicate(timeout=90)
    assert child.returncode == 0, facts
    assert two.returncode == 0, text + said
    assert max(map(len, plain(seen))) <= 60
    assert "every message on both sides" in " ".join(" ".join(plain(seen)).split())
    assert facts["equal"]
    assert facts["lines"] == facts["entries"] == sum(facts["written"].values()) > 500
    assert "every message on both sides, once, in order" in text
    assert "SIGKILL" in text
    assert "bridge init" in text
    wait_until(lambda: not left(short), lambda: str(left(short)))


def test_a_lost_reply(one_rig: Rig) -> None:
    """The demo's own writer says a message once, whatever others said between a lost reply and its next look."""

    def fault(data: bytes, number: int) -> str:
        if b"XREVRANGE" in data and proxy.faults == 1:
            with closing(Connection(one_rig.url)) as other:
                for n in range(700):
                    other.call("XADD", STREAM, "*", "role", "other", "data", str(n))
        return "swallow" if b"XADD" in data and b'"n": 3,' in data and not proxy.faults else "pass"

    stop = Event()
    with Proxy(one_rig.server, fault) as proxy, ThreadPoolExecutor(1) as pool:
        wrote = pool.submit(write_redis, proxy.url, "me", 50, stop)
        wait_until(lambda: proxy.faults and len(mine(one_rig)) > 5, lambda: str(mine(one_rig)))
        stop.set()
        count = wrote.result(30)
    assert mine(one_rig) == [*range(1, count + 1)]


def mine(rig: Rig) -> list[int]:
    """The numbers of what "me" said, as they stand in the stream."""
    return [json.loads(values[b"data"])["n"] for entry in rig.entries()
            if (values := paired(entry.fields))[b"role"] == b"me"]  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_interrupted(short: Path, number: signal.Signals) -> None:
    """A demo that is interrupted, or killed, leaves no process and no file behind."""
    demo = start(short)
    assert demo.stdout is not None
    wait_until(demo.stdout.readline, "the first line")
    demo.send_signal(number)
    demo.communicate(timeout=30)
    assert demo.returncode == (-9 if number == signal.SIGKILL else 130)
    wait_until(lambda: not left(short), lambda: str(left(short)))


def said(role: str, *numbers: int) -> list[tuple[bytes, bytes]]:
    return [(role.encode(), b'{"n": %d}' % n) for n in numbers]


@pytest.mark.parametrize(
    ("file", "stream", "wrong"),
    [
        (said("a", 1, 2) + said("u", 1), said("u", 1) + said("a", 1, 2), ""),
        (said("a", 1, 2) + said("u", 1), said("u", 1) + said("a", 1), "a in the stream: 1 missing, 0 twice"),
        (said("a", 1, 2) + said("u", 1, 1), said("u", 1) + said("a", 1, 2), "u in the file: 0 missing, 1 twice"),
        (said("a", 1, 2) + said("u", 1), said("u", 1) + said("a", 2, 1), "a in the stream: out of order"),
        (said("a", 1, 2) + said("u", 1) + said("x", 1), said("u", 1) + said("a", 1, 2), "messages of nobody: x"),
    ],
)
def test_verdict(file: list[tuple[bytes, bytes]], stream: list[tuple[bytes, bytes]], wrong: str) -> None:
    """The check tells a missing message, one that is there twice, one out of order, and a stranger's."""
    raw = b"".join(b"%b|2026-03-02T09:14:05Z|said|%b\n" % row for row in file)
    entries = [[b"role", role, b"timestamp", b"t", b"type", b"said", b"data", data] for role, data in stream]
    found = judge(raw, entries, {"a": 2, "u": 1}, {"a"})
    assert found.equal == (not wrong)
    assert any(wrong in fault for fault in found.wrong) or not wrong
