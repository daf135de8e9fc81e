"""Groups of mappings (`[groups]` of bridge.toml), each carried by a process of its own with a ledger of its own."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from bridge.core.errors import ConfigError

GROUPS = "groups"
"""The folder of the state directory in which each group has a folder of its own."""


BRING_OVER = "bring-over"
"""What holds the locks of groups while a mapping moves from one to another, as those who meet them are told."""


def run_command(group: str) -> str:
    """Returns the command that carries a group's mappings both ways; `group` is empty for those in no group."""
    return "bridge run --dual" + (f" --group {group}" if group else "")


def group_of(groups: Mapping[str, tuple[str, ...]], mapping: str) -> str:
    """Finds the group that a mapping is in, by its name, among `[groups]`; empty: it is in none."""
    return next((group for group, names in groups.items() if mapping in names), "")


def process_name(instance: str, group: str) -> str:
    """Names the process that carries a group's mappings: the bridge's name, and the group's where there is one."""
    return f"{instance}/{group}" if group else instance


def check_groups(groups: Mapping[str, tuple[str, ...]], known: list[str], where: str) -> None:
    """Raises ConfigError for a group without mappings, with an unknown one, or with one that is in two groups."""
    seen: dict[str, str] = {}
    for group, names in groups.items():
        if not names:
            raise ConfigError(f"group '{group}' has no mapping", where=where, hint="name some, or take the group out")
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean '{near[0]}'?" if near else f"mappings: {', '.join(known)}"
                raise ConfigError(f"group '{group}' names '{name}', which is no mapping here", where=where, hint=hint)
            if seen.get(name) == group:
                raise ConfigError(f"group '{group}' names mapping '{name}' twice", where=where, hint="name it once")
            if name in seen:
                raise ConfigError(f"mapping '{name}' is in group '{seen[name]}' and in group '{group}'", where=where,
                                  hint="one process carries a mapping: name it once")  # fmt: skip
            seen[name] = group
