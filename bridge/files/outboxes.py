"""Counts the messages in components' outboxes, which wait on disk to be sent (`bridge.client.outbox` writes them)."""

from __future__ import annotations

from pathlib import Path


def waiting(state_dir: Path, mapping: str) -> dict[str, int]:
    """Counts the messages that wait in the outboxes of a mapping, for each component that has any. Raises OSError."""
    found: dict[str, int] = {}
    for path in outboxes(state_dir, mapping):
        count = sum(line.startswith(b"[") for line in path.read_bytes().split(b"\n")[:-1])
        if count:
            found[path.parent.name] = found.get(path.parent.name, 0) + count
    return found


def outboxes(state_dir: Path, mapping: str) -> list[Path]:
    """Lists the outboxes of a mapping's components, sorted, those of sessions that have ended among them."""
    return sorted(state_dir.glob(f"components/*/{mapping}.*.outbox"))
