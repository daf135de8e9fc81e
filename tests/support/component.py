"""A component as a program of its own: it writes numbers, or reads messages and notes each before it is acknowledged."""

from __future__ import annotations

import _thread
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event, Thread

from bridge import BridgeHandler, aio, open_log


def write(config: str, name: str, note: Path, pause: float, first: int, *, durable: bool = False) -> None:
    """Appends first, first + 1, …; notes each number once `append` has returned."""
    stop = stopped()
    with open_log("hestai-message", name, config=config, durable=durable) as log, note.open("a") as done:
        number = first
        while not stop.is_set():
            log.append("count", str(number))
            done.write(f"{number}\n")
            done.flush()
            number += 1
            stop.wait(pause)


def read(config: str, name: str, note: Path, pause: float) -> None:
    """Notes `<role> <data> <redelivered> <side> <position>` of each message, then lets it be acknowledged."""
    stop = stopped()
    fd = os.open(note, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with open_log("hestai-message", name, config=config, claim_after=1.0) as log:
        while not stop.is_set():
            for message in log.follow(idle=0.2):
                told = f"{message.role} {message.text} {int(message.redelivered)} {log.reads} {message.position}\n"
                os.write(fd, told.encode())
                if pause:
                    stop.wait(pause)
                if stop.is_set():
                    log.acknowledge()
                    return


def both(config: str, name: str, note: Path, pause: float, first: int) -> None:
    """Reads, and writes meanwhile in a thread of its own, which SIGUSR2 ends."""
    stop, silent = stopped(), Event()
    on_signal(signal.SIGUSR2, silent)
    fd = os.open(note, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with open_log("hestai-message", name, config=config) as log, Path(f"{note}-written").open("a") as done:

        def talk() -> None:
            number = first
            while not (silent.is_set() or stop.is_set()):
                log.append("count", str(number))
                done.write(f"{number}\n")
                done.flush()
                number += 1
                silent.wait(pause)

        talker = Thread(target=talk)
        talker.start()
        while not stop.is_set():
            for message in log.follow(idle=0.2):
                told = f"{message.role} {message.text} {int(message.redelivered)} {log.reads} {message.position}\n"
                os.write(fd, told.encode())
        talker.join()


class StrictHandler(BridgeHandler):
    """A handler that raises what `logging` would print."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exception()
        assert error is not None
        raise error


def write_log(config: str, name: str, note: Path, pause: float, first: int) -> None:
    """As `write`, by `logging`."""
    stop = stopped()
    handler = StrictHandler("hestai-message", name, config=config)
    log = logging.Logger(name)
    log.addHandler(handler)
    with note.open("a") as done:
        number = first
        while not stop.is_set():
            log.info("%d", number)
            done.write(f"{number}\n")
            done.flush()
            number += 1
            stop.wait(pause)
    handler.close()


def write_async(config: str, name: str, note: Path, pause: float, first: int) -> None:
    """As `write`, in an event loop; each third message is begun in a task that is cancelled, and noted if it is there.

    A number whose `append` was cancelled is noted nowhere, and may be in the log or not: readers drop it.
    """

    async def act() -> None:
        stop = stopping()
        async with aio.open_log("hestai-message", name, config=config) as log:
            with note.open("a") as done:
                number = first
                while not stop.is_set():
                    if number % 3 == 0:
                        trying = asyncio.create_task(log.append("tried", f"t{number}"))
                        await asyncio.sleep(0)
                        trying.cancel()
                        await asyncio.gather(trying, return_exceptions=True)
                    await log.append("count", str(number))
                    done.write(f"{number}\n")
                    done.flush()
                    number += 1
                    await asyncio.sleep(pause)

    asyncio.run(act())


def read_async(config: str, name: str, note: Path, pause: float) -> None:
    """As `read`, in an event loop; the wait for a message is cancelled again and again."""

    async def act() -> None:
        stop = stopping()
        fd = os.open(note, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        async with aio.open_log("hestai-message", name, config=config, claim_after=1.0) as log:
            follower = log.follow()
            while not stop.is_set():
                try:
                    message = await asyncio.wait_for(anext(follower), 0.05)
                except TimeoutError:
                    continue
                told = f"{message.role} {message.text} {int(message.redelivered)} {log.reads} {message.position}\n"
                os.write(fd, told.encode())
                await asyncio.sleep(pause)
            await follower.acknowledge()

    asyncio.run(act())


def stopping() -> asyncio.Event:
    """Set by SIGTERM, in the loop that runs."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(f"ready {os.getpid()}", flush=True)
    return stop


def on_signal(number: int, event: Event) -> None:
    """The signal sets the event, in a thread: what it interrupted may be holding the lock that `set` needs."""
    signal.signal(number, lambda number, frame: _thread.start_new_thread(event.set, ()))


def stopped() -> Event:
    """Set by SIGTERM."""
    stop = Event()
    on_signal(signal.SIGTERM, stop)
    print(f"ready {os.getpid()}", flush=True)
    return stop


WRITERS: dict[str, Callable[[str, str, Path, float, int], None]] = {
    "write": write,
    "write-durable": partial(write, durable=True),
    "write-async": write_async,
    "write-log": write_log,
}


def main(args: list[str]) -> None:
    """KIND CONFIG NAME NOTE PAUSE [FIRST]."""
    kind, config, name, note, pause, *rest = args
    if kind == "both":
        both(config, name, Path(note), float(pause), int(rest[0]))
    elif kind in WRITERS:
        WRITERS[kind](config, name, Path(note), float(pause), int(rest[0]))
    elif kind == "read-async":
        read_async(config, name, Path(note), float(pause))
    else:
        read(config, name, Path(note), float(pause))


if __name__ == "__main__":
    main(sys.argv[1:])
