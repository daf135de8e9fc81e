"""The folders of the project, and the mappings that it ships, as texts for tests to change."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
"""The project's folder."""

FIXTURES = ROOT / "fixtures"


def shipped(name: str) -> str:
    """Returns the text of a shipped mapping, by its name."""
    return (ROOT / "mappings" / f"{name}.toml").read_text()
