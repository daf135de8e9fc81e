"""The handlers for `logging`: what a record becomes, rotation, and a queue that never blocks."""

from __future__ import annotations

import json
import logging
import logging.config
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bridge import BridgeHandler, BridgeQueueHandler, Rotation, open_log
from bridge.core.errors import ConfigError
from bridge.core.logger import logger
from bridge.streams.reader import entries
from tests.client.test_component_log import NOWHERE, says, vouch
from tests.support.cast import CONFIG
from tests.support.project import ROOT
from tests.support.rig import STREAM, Rig, wait_until

LINES = """name = "app"
[source]
kind = "log"
path = "app.log"
rotated = ["app.log.*"]
settle_ms = 50
[format]
codec = "regex"
pattern = '(?P<timestamp>\\S+) (?P<type>[A-Z]+) (?P<role>\\S+): (?P<data>.*)'
continuation = true
[stream]
key = "app"
"""

JSON = """name = "app"
[source]
kind = "log"
path = "app.log"
[format]
codec = "jsonl"
timestamp = "epoch_ms"
[message]
role = { pointer = "/agent/name" }
type = { pointer = "/level" }
timestamp = { pointer = "/at" }
[stream]
key = "app"
"""

TEMPLATE = '\n[mirror]\npath = "app.log"\ntemplate = "{timestamp} {type} {role}: {data}"\n'


@contextmanager
def logged(rig: Rig, handler: type[BridgeHandler] = BridgeHandler, mapping: str = "hestai-message", url: str = NOWHERE,
           **options: Any) -> Iterator[tuple[logging.Logger, BridgeHandler]]:  # fmt: skip
    """A logger with the handler; at the end the handler is closed."""
    vouch(rig, STREAM if mapping == "hestai-message" else mapping)
    made = handler(mapping, "ui", config=rig.path / "bridge.toml", redis=url, **options)
    log = logging.Logger("app.part")
    log.addHandler(made)
    try:
        yield log, made
    finally:
        made.close()


def mapped(rig: Rig, text: str) -> None:
    """This mapping is the rig's."""
    (rig.path / "app.toml").write_text(text)
    rig.write_config(mapping="app.toml", extra=CONFIG)


def test_a_record_is_a_line(one_rig: Rig) -> None:
    """Role, time, type and text of a record stand in the mapping's form; `extra` says others."""
    one_rig.write_config(extra=CONFIG)
    with logged(one_rig, types={"WARNING": "warn"}) as (log, _):
        log.info("hello %s", "you")
        log.warning("two\nlines", extra={"role": "daemon", "type": ""})
        log.error("three", extra={"type": "note"})
    lines = [line.split(b"|", 3) for line in one_rig.lines()]
    assert [(line[0], line[2], line[3]) for line in lines] == [
        (b"ui", b"INFO", b"hello you"),
        (b"daemon", b"warn", b"two\\nlines"),
        (b"ui", b"note", b"three"),
    ]
    assert all(re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line[1]) for line in lines)


def test_the_role_is_the_loggers(one_rig: Rig) -> None:
    """Where the component has no role of its own, the logger's name is the role."""
    one_rig.write_config(extra='[components.ui]\nroles = ["a", "b"]\n')
    with logged(one_rig) as (log, _):
        log.info("x")
    assert one_rig.lines()[0].startswith(b"app.part|")


@pytest.mark.parametrize("side", ["file", "redis"])
def test_a_traceback(one_rig: Rig, side: str) -> None:
    """A traceback is further lines where the mapping reads such, and one message with them on both sides."""
    mapped(one_rig, LINES + TEMPLATE)
    one_rig.state.mkdir(exist_ok=True)
    url = NOWHERE
    if side == "redis":
        url = one_rig.url
    with logged(one_rig, mapping="app", url=url) as (log, handler):
        if side == "redis":
            says_app(one_rig)
        try:
            raise ValueError("no\n\nway")
        except ValueError:
            log.exception("it failed")
        log.info("after")
        assert handler._log is not None
        found = list(handler._log.follow(idle=0.5))
    assert [message.text.split("\n")[0] for message in found] == ["it failed", "after"]
    assert "Traceback" in found[0].text
    assert found[0].text.endswith("ValueError: no\n\nway")
    if side == "file":
        assert b"\nTraceback (most recent call last):\n" in (one_rig.log.parent / "app.log").read_bytes()
        one_rig.once()
        [entry, _] = entries(one_rig.redis, b"app")
        assert dict(zip(entry.fields[::2], entry.fields[1::2], strict=True))[b"data"].decode() == found[0].text


def says_app(rig: Rig) -> None:
    """The component reads and writes Redis."""
    told = {"reads": "redis", "writes": "redis", "epoch": 1}
    rig.redis.call("HSET", "bridge:{app}:components", "ui@test", json.dumps(told))


def test_json(one_rig: Rig) -> None:
    """A mapping of JSON gets an object with role, type and time where the mapping looks for them."""
    mapped(one_rig, JSON)
    with logged(one_rig, mapping="app") as (log, _):
        log.info('a "quoted"\nline')
    [line] = (one_rig.log.parent / "app.log").read_bytes().splitlines()
    said = json.loads(line)
    assert isinstance(said.pop("at"), int)
    assert said == {"message": 'a "quoted"\nline', "level": "INFO", "agent": {"name": "ui"}}


def test_dict_config(one_rig: Rig) -> None:
    """`dictConfig` makes a handler by its name."""
    one_rig.write_config(extra=CONFIG)
    vouch(one_rig)
    config = {
        "version": 1,
        "handlers": {"bridge": {"class": "bridge.BridgeQueueHandler", "mapping": "hestai-message", "component": "ui",
                                "config": str(one_rig.path / "bridge.toml"), "redis": NOWHERE}},
        "loggers": {"test.dict": {"handlers": ["bridge"], "level": "INFO"}},
    }  # fmt: skip
    logging.config.dictConfig(config | {"disable_existing_loggers": False})
    log = logging.getLogger("test.dict")
    try:
        log.info("by config")
    finally:
        for handler in [*log.handlers]:
            log.removeHandler(handler)
            handler.close()
    assert one_rig.lines()[0].endswith(b"|INFO|by config")


def test_its_own_words_do_not_come_back(one_rig: Rig) -> None:
    """What the bridge logs while it appends is no record of the handler's."""
    one_rig.write_config(extra=CONFIG)
    vouch(one_rig)
    handler = BridgeHandler("hestai-message", "ui", config=one_rig.path / "bridge.toml", redis=NOWHERE)
    logger.addHandler(handler)
    try:
        logger.warning("no circle")
    finally:
        logger.removeHandler(handler)
        handler.close()
    assert not one_rig.log.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mapping": "nothing"}, "nothing"),
        ({"rotate": "weekly"}, "midnight"),
        ({"rotate": "midnight", "max_bytes": 10}, "not by both"),
        ({"backups": -1}, "below 0"),
    ],
)
def test_what_is_wrong_is_told_at_once(one_rig: Rig, options: dict[str, Any], said: str) -> None:
    """A handler that could not work is not made."""
    one_rig.write_config(extra=CONFIG)
    given: dict[str, Any] = {"mapping": "hestai-message", "component": "ui", "config": one_rig.path / "bridge.toml"}
    with pytest.raises(ConfigError, match=said):
        BridgeHandler(**given | options)


def test_pieces_that_the_mapping_would_not_know(one_rig: Rig) -> None:
    """A rotation whose pieces the mapping does not name is refused, and says which pattern is missing."""
    mapped(one_rig, JSON)
    with pytest.raises(ConfigError, match="would not know") as caught:
        BridgeHandler("app", "ui", config=one_rig.path / "bridge.toml", max_bytes=100)
    assert 'rotated = ["app.log.*"]' in caught.value.hint


@pytest.mark.parametrize("backups", [0, 3])
def test_rotation_by_size(one_rig: Rig, backups: int) -> None:
    """A log that would grow over its size is renamed with a number, and the bridge carries every line once."""
    one_rig.write_config(extra=CONFIG)
    with logged(one_rig, max_bytes=300, backups=backups) as (log, _):
        for n in range(60):
            log.info("%d", n)
            if backups and n % 8 == 7:
                one_rig.once()
    one_rig.once()
    assert one_rig.datas() == [b"%d" % n for n in range(60)]
    pieces = sorted(path.name for path in one_rig.log.parent.glob("messages.log.*"))
    assert len(pieces) == 3 if backups else len(pieces) > 5
    assert all(path.stat().st_size <= 300 for path in one_rig.log.parent.glob("messages.log*"))


def test_rotation_at_midnight(one_rig: Rig) -> None:
    """A log of an earlier day is renamed with that day before a line of today goes in; a name that is taken stays."""
    one_rig.write_config(extra=CONFIG)
    one_rig.append("old")
    (one_rig.log.parent / "messages.log.2026-01-02").write_bytes(b"agent|2026-01-02T00:00:00Z|turn|older\n")
    os.utime(one_rig.log, (1767355200.0, 1767355200.0))  # 2026-01-02, noon
    with logged(one_rig, rotate="midnight") as (log, _):
        log.info("new")
    assert one_rig.log.read_bytes().endswith(b"|new\n")
    assert (one_rig.log.parent / "messages.log.2026-01-02.1").read_bytes().endswith(b"|old\n")
    one_rig.once()
    assert sorted(one_rig.datas()) == [b"new", b"old", b"older"]


def test_old_days_are_deleted(one_rig: Rig) -> None:
    """No more days are kept than `backups` says, and no file of another name is touched."""
    one_rig.write_config(extra=CONFIG)
    one_rig.append("old")
    for name in ("messages.log.2026-01-01", "messages.log.2026-01-02", "messages.log.keep-me", "messages.log.7"):
        (one_rig.log.parent / name).write_bytes(b"")
    os.utime(one_rig.log, (1767441600.0, 1767441600.0))  # 2026-01-03
    with logged(one_rig, rotate="midnight", backups=2) as (log, _):
        log.info("new")
    assert sorted(path.name for path in one_rig.log.parent.glob("messages.log.*")) == [
        "messages.log.2026-01-02", "messages.log.2026-01-03", "messages.log.7", "messages.log.keep-me",
    ]  # fmt: skip


WRITER = """
import logging, sys
from bridge import BridgeHandler
log = logging.Logger("w")
log.addHandler(BridgeHandler("hestai-message", "ui", config=sys.argv[1], redis=sys.argv[2], max_bytes=2000))
for n in range(400):
    log.info("%s-%d", sys.argv[3], n)
"""


def test_several_processes_rotate_one_log(one_rig: Rig) -> None:
    """Four processes that write and rotate one log lose nothing, and each piece was rotated once."""
    one_rig.write_config(extra=CONFIG)
    vouch(one_rig)
    config = str(one_rig.path / "bridge.toml")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    children = [
        subprocess.Popen([sys.executable, "-c", WRITER, config, NOWHERE, name], env=env)
        for name in ("a", "b", "c", "d")
    ]
    assert [child.wait(60) for child in children] == [0, 0, 0, 0]
    pieces = [one_rig.log, *one_rig.log.parent.glob("messages.log.*")]
    found = [line.rpartition(b"|")[2] for path in pieces for line in path.read_bytes().splitlines()]
    assert sorted(found) == sorted(b"%s-%d" % (name, n) for name in (b"a", b"b", b"c", b"d") for n in range(400))
    assert all(path.stat().st_size > 1500 for path in pieces if path != one_rig.log)
    one_rig.once()
    assert sorted(one_rig.datas()) == sorted(found)


def test_rotation_ends_with_the_switch(one_rig: Rig) -> None:
    """A component that writes Redis rotates nothing."""
    one_rig.write_config(extra=CONFIG)
    one_rig.append("old")
    os.utime(one_rig.log, (1767355200.0, 1767355200.0))
    one_rig.once()
    says(one_rig, "ui", reads="redis", writes="redis")
    with logged(one_rig, url=one_rig.url, rotate="midnight") as (log, _):
        log.info("new")
    assert one_rig.datas() == [b"old", b"new"]
    assert not [*one_rig.log.parent.glob("messages.log.*")]


def test_a_queue_never_blocks(one_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a message cannot be written, records wait; beyond the capacity they are dropped, and the log says how many."""
    one_rig.write_config(extra=CONFIG)
    with logged(one_rig, BridgeQueueHandler, capacity=10) as (log, handler):
        assert isinstance(handler, BridgeQueueHandler)
        held, go_on = threading.Event(), threading.Event()
        append = handler._append

        def slowly(*parts: Any) -> None:
            held.set()
            assert go_on.wait(30)
            append(*parts)

        monkeypatch.setattr(handler, "_append", slowly)
        log.info("0")
        assert held.wait(30)
        for n in range(1, 31):
            log.info("%d", n)
        assert handler.dropped == 20
        go_on.set()
        handler.flush()
        log.info("last")
    texts = [line.rpartition(b"|")[2].decode() for line in one_rig.lines()]
    assert [text for text in texts if text.isdigit()] == [str(n) for n in range(11)]
    assert texts[-1] == "last"
    assert "20 records were dropped here, as the queue was full" in texts


def test_what_cannot_be_written_is_told(one_rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    """A record that makes no message goes where `logging` tells of errors, and the next ones are written."""
    one_rig.write_config(extra=CONFIG)
    with logged(one_rig, BridgeQueueHandler) as (log, _):
        log.info("x", extra={"role": "with|bar"})
        log.info("fine")
    assert one_rig.lines()[0].endswith(b"|fine")
    assert "delimiter" in capsys.readouterr().err


FORKS = """
import logging, os, sys
from bridge import BridgeHandler, BridgeQueueHandler
made = {"plain": BridgeHandler, "queue": BridgeQueueHandler}[sys.argv[3]]
handler = made("hestai-message", "ui", config=sys.argv[1], redis=sys.argv[2])
log = logging.Logger("w")
log.addHandler(handler)
log.info("parent")
handler.flush()
if os.fork() == 0:
    log.info("child")
    handler.close()
    os._exit(0)
os.wait()
log.info("parent again")
logging.shutdown([lambda: handler])
"""


@pytest.mark.parametrize("kind", ["plain", "queue"])
def test_a_forked_process_opens_its_own(one_rig: Rig, kind: str) -> None:
    """A handler that was configured before the fork writes in parent and child."""
    one_rig.write_config(extra=CONFIG)
    vouch(one_rig)
    args = [sys.executable, "-W", "ignore", "-c", FORKS, str(one_rig.path / "bridge.toml"), NOWHERE, kind]
    done = subprocess.run(
        args, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60, check=True, capture_output=True
    )
    assert done.stderr == b""
    assert [line.rpartition(b"|")[2] for line in one_rig.lines()] == [b"parent", b"child", b"parent again"]


def test_no_thread_is_left(one_rig: Rig) -> None:
    """After `close` no thread of the handler's runs."""
    one_rig.write_config(extra=CONFIG)
    before = set(threading.enumerate())
    with logged(one_rig, BridgeQueueHandler, url=one_rig.url) as (log, _):
        log.info("x")
    wait_until(lambda: set(threading.enumerate()) <= before, lambda: str(threading.enumerate()))


def test_a_log_rotates_without_a_handler(one_rig: Rig) -> None:
    """`open_log` takes a rotation too."""
    one_rig.write_config(extra=CONFIG)
    vouch(one_rig)
    config = Path(one_rig.path / "bridge.toml")
    with open_log("hestai-message", "ui", config=config, redis=NOWHERE, rotation=Rotation(max_bytes=100)) as log:
        for n in range(5):
            log.append("say", "x" * 40 + str(n))
    assert len([*one_rig.log.parent.glob("messages.log.*")]) == 4


def test_text_that_is_no_utf8(one_rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    """A lone surrogate in a text is written as what it is, and a role that is none stops no record behind it."""
    one_rig.write_config(extra=CONFIG)
    with logged(one_rig, BridgeQueueHandler) as (log, _):
        log.info("a \udcff b")
        log.info("x", extra={"role": "\ud800"})
        log.info("fine")
    assert [line.rpartition(b"|")[2] for line in one_rig.lines()] == [b"a \\udcff b", b"fine"]
    assert "surrogates not allowed" in capsys.readouterr().err


def test_a_fork_while_the_log_is_opened(one_rig: Rig) -> None:
    """A process that is forked while another thread holds the handler's lock writes all the same."""
    one_rig.write_config(extra=CONFIG)
    vouch(one_rig)
    code = (
        "import logging, os, sys, threading\nfrom bridge import BridgeHandler\n"
        "handler = BridgeHandler('hestai-message', 'ui', config=sys.argv[1], redis=sys.argv[2])\n"
        "log = logging.Logger('w')\nlog.addHandler(handler)\nheld = threading.Event()\n"
        "def hold():\n    with handler._opening:\n        held.set()\n        threading.Event().wait()\n"
        "threading.Thread(target=hold, daemon=True).start()\nheld.wait()\n"
        "if os.fork() == 0:\n    log.info('child')\n    handler.close()\n    os._exit(0)\n"
        "os._exit(os.waitstatus_to_exitcode(os.wait()[1]))\n"
    )
    args = [sys.executable, "-W", "ignore", "-c", code, str(one_rig.path / "bridge.toml"), NOWHERE]
    subprocess.run(args, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60, check=True)
    assert one_rig.lines()[0].endswith(b"|child")
