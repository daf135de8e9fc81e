"""`bridge parity --html`: one page that needs nothing else, shows what was found, and trusts no byte of a log."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bridge.parity.report import marked, page
from bridge.parity.statistics import BUCKETS, Timeline
from tests.parity.test_parity import bridged, entry_of, offset_of
from tests.support.rig import STREAM, Rig

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
HOSTILE = '<script>document.title="owned"</script><img src=x onerror="document.title=1">&quot;{{7*7}}\x1b[31m\u202e'


class Elements(HTMLParser):
    """Tags by name, and the text of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def faulty(rig: Rig) -> Path:
    """A page of a run with one difference of each kind, and a hostile line among them."""
    bridged(rig)
    rig.append(HOSTILE, "f-40", "f-41")
    rig.once()
    number = rig.log.read_bytes().split(b"\n").index(next(raw for raw in rig.lines() if b"<script>" in raw))
    lines = rig.log.read_bytes().split(b"\n")
    lines[offset_of(rig, "f-9")[0] - 1] = lines[offset_of(rig, "f-9")[0] - 1][:-1] + b"#"
    lines[number] = lines[number].replace(b"owned", b"OWNED")
    lines.insert(30, lines[2])
    rig.redis.call("XDEL", STREAM, entry_of(rig, "f-20"))
    rig.log.write_bytes(b"\n".join(lines))
    path = rig.path / "page.html"
    done = rig.run("parity", "--html", str(path), "--redis", rig.server.socket_url)
    assert done.returncode == 3, done.stderr
    return path


def test_page(one_rig: Rig) -> None:
    """Verdict, position, counts, each difference side by side with its differing bytes; hostile text is text."""
    path = faulty(one_rig)
    seen = Elements(path.read_text())
    assert "Parity: differs" in seen.text
    assert not {"script", "img", "link", "iframe", "object"} & set(seen.tags)
    assert not [value for name, value in seen.attributes if name in ("src", "style") or name.startswith("on")]
    assert all(value.startswith("#") for name, value in seen.attributes if name == "href")
    assert "url(" not in path.read_text()
    assert '<script>document.title="OWNED"</script><img src=x' in re.sub(r"\s+", " ", seen.text)
    assert "{{7*7}}" in seen.text
    assert "\x1b" not in path.read_text()
    assert "\u202e" not in path.read_text()
    assert seen.tags.count("mark") == 4
    for words in (
        "missing in Redis",
        "altered",
        "twice",
        "out of order",
        "messages.log line",
        "byte",
        "once, not twice",
    ):
        assert words in seen.text
    assert ("class", "pair altered") in seen.attributes


def test_page_of_equal_sides(one_rig: Rig) -> None:
    """Equal: the verdict, what it holds for, and how many of each role and type."""
    bridged(one_rig)
    text = page([one_rig.parity()], 0.0)
    assert "Equal: 50 messages, each once on both sides, in order" in Elements(text).text


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_in_a_browser(one_rig: Rig, tmp_path: Path) -> None:
    """A real browser shows every difference, runs nothing of a log's, and draws the timeline."""
    path = faulty(one_rig)
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1000,1400",
    ]  # fmt: skip
    shot = tmp_path / "page.png"
    done = subprocess.run([*command, "--dump-dom", path.as_uri()], capture_output=True, timeout=60, check=True)
    subprocess.run([*command, f"--screenshot={shot}", path.as_uri()], capture_output=True, timeout=60, check=True)
    seen = Elements(done.stdout.decode())
    assert "<title>Parity: differs</title>" in done.stdout.decode()
    assert not {"script", "img"} & set(seen.tags)
    assert sum(value.startswith("pair ") for name, value in seen.attributes if name == "class") == 4
    assert seen.tags.count("rect") >= 2
    assert seen.tags.count("path") >= 1
    assert shot.stat().st_size > 20_000


def test_takes_no_other_place(one_rig: Rig) -> None:
    """A page takes the place of an earlier one, and of no other file: not of a log, not of the configuration."""
    rig = one_rig
    bridged(rig, 4)
    url = ("--redis", rig.server.socket_url)
    for path in (rig.log, rig.path / "bridge.toml", rig.state / "ledger.db"):
        before = path.read_bytes()
        done = rig.run("parity", "--html", str(path), *url)
        assert done.returncode == 1
        assert "is no page of parity: it is left alone" in done.stderr
        assert path.read_bytes() == before
    for _ in range(2):
        assert rig.run("parity", "--html", str(rig.path / "p.html"), *url).returncode == 0


def test_marked() -> None:
    """The differing bytes stand between what is the same before and behind them."""
    assert [(text.text, text.differs) for text in marked(b"agent|x|1", b"agent|yy|1")] == [
        ("agent|", False), ("x", True), ("|1", False),
    ]  # fmt: skip
    assert [text.text for text in marked(b"same", b"same")] == ["same"]
    assert marked(None, b"x") == []


def test_timeline() -> None:
    """However long the span is, the buckets stay few, and nothing gets lost."""
    timeline = Timeline()
    for n in range(5000):
        timeline.add([n * n * 1000 + 1, 0])
    assert sum(timeline.counts.values()) == 5000
    assert max(timeline.counts) - min(timeline.counts) < BUCKETS
