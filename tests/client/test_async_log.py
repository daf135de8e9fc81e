"""`bridge.aio`: a component's log in an event loop, with what a cancellation and an end leave behind."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

import bridge
from bridge.aio import AsyncFollower, AsyncLog
from bridge.core.errors import BridgeError, ConfigError, TargetError
from tests.client.test_component_log import NOWHERE, says, vouch
from tests.support.cast import CONFIG
from tests.support.rig import Rig, wait_until


@asynccontextmanager
async def opened(rig: Rig, url: str = NOWHERE, **options: Any) -> AsyncIterator[AsyncLog]:
    """The log of the component `ui`; without Redis, unless a url is given."""
    rig.write_config(extra=CONFIG)
    vouch(rig)
    async with bridge.aio.open_log(
        "hestai-message", "ui", config=rig.path / "bridge.toml", redis=url, **options
    ) as log:
        yield log


async def texts(log: AsyncLog, idle: float = 0.15) -> list[tuple[str, bool]]:
    """What it gives until nothing comes."""
    return [(message.text, message.redelivered) async for message in log.follow(idle=idle)]


def run(act: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs it in a loop of its own; at the end there is no thread and no task but this one's."""
    before = set(threading.enumerate())

    async def whole() -> None:
        await act()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(whole())
    assert set(threading.enumerate()) <= before


@pytest.fixture(params=["file", "redis"])
def sided(request: pytest.FixtureRequest, one_rig: Rig) -> tuple[Rig, str]:
    """A component that reads and writes files, without Redis, or the stream; and by which url."""
    if request.param == "file":
        return one_rig, NOWHERE
    one_rig.write_config(extra=CONFIG)
    says(one_rig, "ui", reads="redis", writes="redis")
    return one_rig, one_rig.url


def test_it_reads_what_it_writes(sided: tuple[Rig, str]) -> None:
    """What `append` put there, in the order of its calls, an `async for` is given."""
    rig, url = sided

    async def act() -> None:
        async with opened(rig, url) as log:
            await asyncio.gather(*(log.append("say", str(n)) for n in range(50)))
            assert await texts(log) == [(str(n), False) for n in range(50)]
            assert log.component == "ui"

    run(act)


def test_a_wait_that_is_cancelled_loses_nothing(sided: tuple[Rig, str]) -> None:
    """A follower whose `anext` is cancelled again and again gives each message once, in order."""
    rig, url = sided

    async def act() -> None:
        async with opened(rig, url) as log:
            follower, found = log.follow(), list[str]()

            async def write() -> None:
                for n in range(60):
                    await log.append("say", str(n))
                    await asyncio.sleep(0.003)

            writing = asyncio.create_task(write())
            while len(found) < 60:
                try:
                    message = await asyncio.wait_for(anext(follower), random.uniform(0.0001, 0.02))
                except TimeoutError:
                    continue
                assert not message.redelivered
                found.append(message.text)
            await writing
        assert found == [str(n) for n in range(60)]

    run(act)


@pytest.mark.parametrize("how", ["aclose", "close", "another follower"])
def test_what_nobody_was_given_comes_as_new(sided: tuple[Rig, str], how: str) -> None:
    """A message that was fetched while nobody waited any more comes again, unmarked; the one before is done."""
    rig, url = sided

    async def act() -> None:
        async with opened(rig, url) as log:
            await log.append("say", "a")
            follower = log.follow()
            assert (await anext(follower)).text == "a"
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(follower), 0.05)
            await log.append("say", "b")
            pending = follower._next
            assert pending is not None
            await asyncio.to_thread(wait_until, pending.done, lambda: "nothing came")
            if how == "aclose":
                await follower.aclose()
            if how != "close":
                assert await texts(log) == [("b", False)]
                await log.append("say", "c")
        async with opened(rig, url) as log:
            assert await texts(log) == [("c" if how != "close" else "b", False)]

    async def whole() -> None:
        await act()
        await asyncio.get_running_loop().shutdown_default_executor()

    run(whole)


def test_a_loop_that_is_left_has_its_message_again(sided: tuple[Rig, str]) -> None:
    """Who leaves the loop has the last message again, marked; who acknowledged it before has not."""
    rig, url = sided

    async def act() -> None:
        async with opened(rig, url) as log:
            for text in "abc":
                await log.append("say", text)
            async for message in log.follow():
                assert message.text == "a"
                break
            async for message in log.follow():
                assert (message.text, message.redelivered) == ("a", True)
                await log.acknowledge()
                break
            assert await texts(log) == [("b", False), ("c", False)]

    run(act)


def test_appends_that_are_cancelled(sided: tuple[Rig, str]) -> None:
    """A cancelled `append` has written its message whole or not at all, and nothing is written after it was cancelled."""
    rig, url = sided
    sure, cancelled = list[int](), list[int]()

    async def act() -> None:
        async with opened(rig, url) as log:
            count = 0

            async def write(n: int) -> None:
                await log.append("say", str(n))
                sure.append(n)

            for _ in range(40):
                some = [asyncio.create_task(write(count + n)) for n in range(5)]
                count += 5
                await asyncio.sleep(random.uniform(0, 0.002))
                for task in random.sample(some, 3):
                    task.cancel()
                results = await asyncio.gather(*some, return_exceptions=True)
                cancelled.extend(
                    count - 5 + i for i, result in enumerate(results) if isinstance(result, asyncio.CancelledError)
                )
            there = [text for text, _ in await texts(log)]
            await asyncio.sleep(0.05)
            assert await texts(log) == []
            assert len(set(there)) == len(there)
            assert {str(n) for n in sure} <= set(there)
            assert set(there) <= {str(n) for n in [*sure, *cancelled]}
            assert [int(text) for text in there] == sorted(int(text) for text in there)

    run(act)
    assert cancelled


def test_a_cancelled_opening_and_a_cancelled_close(one_rig: Rig) -> None:
    """Who is cancelled while it opens or closes a log leaves no log open and no thread."""

    async def act() -> None:
        one_rig.write_config(extra=CONFIG)
        for seconds in (0.0, 0.001, 0.005, 0.02, 0.05):
            opening = bridge.aio.open_log("hestai-message", "ui", config=one_rig.path / "bridge.toml", redis=NOWHERE)

            async def use(opening: Any = opening) -> None:
                async with opening as log:
                    await log.append("say", "x")

            task = asyncio.create_task(use())
            await asyncio.sleep(seconds)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        async with opened(one_rig) as log:
            closing = asyncio.create_task(log.close())
            await asyncio.sleep(0)
            closing.cancel()
            await asyncio.gather(closing, return_exceptions=True)
            with pytest.raises(BridgeError, match="closed"):
                await log.append("say", "late")

    run(act)


def test_several_loops(sided: tuple[Rig, str]) -> None:
    """A log that one loop opened is written to by another, in another thread."""
    rig, url = sided

    async def act() -> None:
        async with opened(rig, url) as log:
            await asyncio.to_thread(lambda: asyncio.run(log.append("say", "from elsewhere")))
            assert await texts(log) == [("from elsewhere", False)]
        await asyncio.get_running_loop().shutdown_default_executor()

    run(act)


def test_two_who_ask_at_once(one_rig: Rig) -> None:
    """Two tasks that ask one follower, or one log, at the same time are told so; one after the other is no error."""

    async def act() -> None:
        async with opened(one_rig) as log:
            follower = log.follow()
            waiting: asyncio.Task[Any] = asyncio.ensure_future(anext(follower))
            await asyncio.sleep(0.05)
            with pytest.raises(BridgeError, match="asked for already"):
                await anext(follower)
            with pytest.raises(BridgeError, match="followed already"):
                log.follow()
            log.stop()
            with pytest.raises(StopAsyncIteration):
                await waiting
            assert await texts(log) == []

    run(act)


def test_errors_arrive(one_rig: Rig) -> None:
    """What the log would raise is raised where it is awaited, and the log goes on."""

    async def act() -> None:
        with pytest.raises(ConfigError):
            await bridge.aio.open_log("no-such", "ui", config=one_rig.path / "bridge.toml", redis=NOWHERE)
        async with opened(one_rig) as log:
            with pytest.raises(TargetError):
                await log.append("with|bar", "x")
            await log.append("say", "fine")
            assert await texts(log) == [("fine", False)]

    one_rig.write_config(extra=CONFIG)
    run(act)


def test_states_come_in_the_loop(one_rig: Rig) -> None:
    """`on_state` is called in the thread of the loop that opened the log."""
    found = list[tuple[str, int]]()

    async def act() -> None:
        async with opened(one_rig, one_rig.url, on_state=lambda state: found.append((state, threading.get_ident()))):
            until = time.monotonic() + 20
            while not found and time.monotonic() < until:
                await asyncio.sleep(0.01)

    run(act)
    assert found[0] == ("connected", threading.get_ident())


def test_several_streams(one_rig: Rig) -> None:
    """The streams of a mapping with many are followed in one `async for`, and written to by name."""
    one_rig.write_config(mapping="sessions.toml", extra=CONFIG)
    (one_rig.path / "sessions.toml").write_text(
        'name = "sessions"\n[source]\nkind = "log"\npath = "sessions/*.log"\n[format]\ncodec = "delimited"\n'
        'delimiter = "|"\ncolumns = ["role", "timestamp", "type", "data"]\n[stream]\nkey = "s:{name}"\n'
        '[mirror]\npath = "sessions/{name}.log"\n'
    )

    async def act() -> None:
        async with bridge.aio.open_log(
            "sessions", "ui", config=one_rig.path / "bridge.toml", redis=one_rig.url, streams="*"
        ) as logs:
            for n in range(6):
                await logs.append("say", str(n), stream=f"s{n % 2}")
            found = [(message.stream, message.text) async for message in logs.follow(idle=1.0)]
            assert sorted(found) == sorted((f"s{n % 2}", str(n)) for n in range(6))
            assert logs.streams == ["s0", "s1"]

    run(act)


def test_a_follower_is_closed_twice(one_rig: Rig) -> None:
    """A follower that is closed gives nothing more, and may be closed again."""

    async def act() -> None:
        async with opened(one_rig) as log:
            async with log.follow() as follower:
                assert isinstance(follower, AsyncFollower)
            await follower.aclose()
            with pytest.raises(StopAsyncIteration):
                await anext(follower)

    run(act)


def test_a_cancelled_end_of_following(sided: tuple[Rig, str]) -> None:
    """Who is cancelled while it closes a follower has closed it: the log is followed again, and closed."""
    rig, url = sided

    async def act() -> None:
        async with opened(rig, url) as log:
            await log.append("say", "a")
            for _ in range(3):
                follower = log.follow()
                with suppress(TimeoutError):
                    while True:
                        await asyncio.wait_for(anext(follower), 0.3)
                closing = asyncio.create_task(follower.aclose())
                await asyncio.sleep(0)
                closing.cancel()
                await asyncio.gather(closing, return_exceptions=True)
            assert await texts(log) == []

    run(act)


def test_a_loop_that_ends_while_the_log_closes(sided: tuple[Rig, str]) -> None:
    """A log whose `close` the end of its loop cancels is closed, with its threads."""
    rig, url = sided

    async def act() -> None:
        log = await bridge.aio.open_log("hestai-message", "ui", config=rig.path / "bridge.toml", redis=url)
        asyncio.get_running_loop().call_soon(lambda: closing.append(asyncio.ensure_future(log.close())))
        await asyncio.sleep(0.001)

    closing: list[Any] = []
    rig.write_config(extra=CONFIG)
    before = set(threading.enumerate())
    for _ in range(8):
        asyncio.run(act())
        assert set(threading.enumerate()) <= before
