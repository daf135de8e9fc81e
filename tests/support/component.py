"""A component as a program of its own: it writes numbers, or reads messages and notes each before it is acknowledged."""

from __future__ import annotations

import _thread
import os
import signal
import sys
from pathlib import Path
from threading import Event, Thread

from bridge import open_log


def write(config: str, name: str, note: Path, pause: float, first: int) -> None:
    """Appends first, first + 1, …; notes each number once `append` has returned."""
    stop = stopped()
    with open_log("hestai-message", name, config=config) as log, note.open("a") as done:
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


def on_signal(number: int, event: Event) -> None:
    """The signal sets the event, in a thread: what it interrupted may be holding the lock that `set` needs."""
    signal.signal(number, lambda number, frame: _thread.start_new_thread(event.set, ()))


def stopped() -> Event:
    """Set by SIGTERM."""
    stop = Event()
    on_signal(signal.SIGTERM, stop)
    print(f"ready {os.getpid()}", flush=True)
    return stop


def main(args: list[str]) -> None:
    """KIND CONFIG NAME NOTE PAUSE [FIRST]."""
    kind, config, name, note, pause, *rest = args
    if kind == "both":
        both(config, name, Path(note), float(pause), int(rest[0]))
    elif kind == "write":
        write(config, name, Path(note), float(pause), int(rest[0]))
    else:
        read(config, name, Path(note), float(pause))


if __name__ == "__main__":
    main(sys.argv[1:])
