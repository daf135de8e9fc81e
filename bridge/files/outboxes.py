"""Counts the messages in components' outboxes, which wait on disk to be sent (`bridge.client.outbox` writes them)."""

from __future__ import annotations

from pathlib import Path


def waiting(state_dir: Path, mapping: str) -> dict[str, int]:
    """Counts the messages that wait in the outboxes of a mapping, for each component that has any. Raises OSError."""
    return waiting_of_all(state_dir).get(mapping, {})


def waiting_of_all(state_dir: Path) -> dict[str, dict[str, int]]:
    """Counts the messages that wait in outboxes, by mapping and component, as far as there are any. Raises OSError."""
    found: dict[str, dict[str, int]] = {}
    for path in _all(state_dir):
        if count := sum(line.startswith(b"[") for line in path.read_bytes().split(b"\n")[:-1]):
            mine = found.setdefault(_mapping_of(path), {})
            mine[path.parent.name] = mine.get(path.parent.name, 0) + count
    return found


def outboxes(state_dir: Path, mapping: str) -> list[Path]:
    """Lists the outboxes of a mapping's components, sorted, those of sessions that have ended among them."""
    return [path for path in _all(state_dir) if _mapping_of(path) == mapping]


def _all(state_dir: Path) -> list[Path]:
    return sorted(state_dir.glob("components/*/*.outbox"))


def _mapping_of(path: Path) -> str:
    """Returns the mapping that an outbox is of, by its name, `<mapping>.<session>.outbox`."""
    return path.stem.rpartition(".")[0]
