"""Watches folders with watchdog for wake-ups: an event says only that something happened; looking tells what.

A wake-up may be missed, doubled or late (an overflowed queue, a replaced directory, a dead thread, a network file
system); the sweep in `run.py` finds what it missed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from watchdog.events import (
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

# Without this filter the bridge's own reads would come back as events.
_EVENTS: list[type[FileSystemEvent]] = [FileModifiedEvent, FileCreatedEvent, FileMovedEvent, FileDeletedEvent]


class _Handler(FileSystemEventHandler):
    def __init__(self, wake: Callable[[str, bool], None]) -> None:
        self._wake = wake

    def on_any_event(self, event: FileSystemEvent) -> None:
        self._wake(os.fsdecode(event.src_path), isinstance(event, FileDeletedEvent | FileMovedEvent))
        if event.dest_path:
            self._wake(os.fsdecode(event.dest_path), False)


class Watcher:
    """Watches folders and calls `wake(path, removed)` for each event, from watchdog's thread.

    `tend` repairs what broke.
    """

    def __init__(self, folders: set[Path], wake: Callable[[str, bool], None], say: Callable[[str], None]) -> None:
        self.folders = folders
        self._handler = _Handler(wake)
        self._say = say
        self._observer: BaseObserver | None = None
        self._watched: dict[Path, tuple[int, int]] = {}
        self._refused = ""

    def tend(self) -> None:
        """Starts the file watcher, and replaces it when one of its threads died or a watched folder was replaced."""
        now = {folder: _identity(folder) for folder in self.folders}
        present = {folder: identity for folder, identity in now.items() if identity is not None}
        if self._observer is not None:
            alive = self._observer.is_alive() and all(emitter.is_alive() for emitter in self._observer.emitters)
            if alive and present == self._watched:
                return
            if not alive:
                self._say("the file watcher died and was replaced; the sweep found what it missed")
            self.close()
        observer = Observer()
        try:
            for folder in present:
                observer.schedule(self._handler, str(folder), recursive=False, event_filter=_EVENTS)
            observer.start()
        except OSError as error:
            if self._refused != str(error):
                self._refused = str(error)
                self._say(f"folders cannot be watched ({error.strerror}): they are swept instead")
            return
        self._observer, self._watched = observer, present

    def close(self) -> None:
        """Stops the threads of the file watcher."""
        observer, self._observer, self._watched = self._observer, None, {}
        if observer is not None and observer.is_alive():
            try:
                observer.stop()
            except OSError as error:
                self._say(f"a file watcher could not be stopped ({error.strerror}); it wakes the bridge more often")
                return
            observer.join(5)


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        now = os.stat(folder)
    except OSError:
        return None
    return now.st_dev, now.st_ino
