"""The runbook: this deployment's cut-over plan as Markdown, with order, commands, and the way back. Pure."""

from __future__ import annotations

from collections.abc import Mapping as MappingType
from collections.abc import Sequence
from dataclasses import dataclass

from bridge.core.groups import run_command
from bridge.streams.components import FILE


@dataclass(frozen=True, slots=True)
class RunbookMapping:
    """A component in one mapping, for the runbook: the roles it writes as, and which side it reads and writes now."""

    component: str
    mapping: str
    roles: frozenset[str] = frozenset()
    reads: str = FILE
    writes: str = FILE


def ordered(parts: Sequence[RunbookMapping]) -> list[RunbookMapping]:
    """Sorts the runbook's components in the order of their cut-over: readers alone first, then by fewest roles."""
    return sorted(parts, key=lambda part: (len(part.roles), part.component, part.mapping))


def runbook(
    parts: Sequence[RunbookMapping], streams: MappingType[str, str], others: MappingType[str, str], *,
    redis: str, root: str, durable: str, at: str, groups: Sequence[str] = ("",),
) -> str:  # fmt: skip
    """Renders the runbook of a deployment's cut-over as Markdown.

    `streams`: each mapping's stream; `others`: the kind of those whose readers are not switched.

    `durable`: what is wrong with Redis's safety, empty: nothing. `groups`: those that a process each carries, an empty
    name for the mappings in none.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    env = Environment(loader=PackageLoader("bridge.cutover"), undefined=StrictUndefined, autoescape=False)
    facts = {"streams": streams, "others": others, "redis": redis, "root": root, "durable": durable, "at": at,
             "runs": "\n".join(map(run_command, groups))}  # fmt: skip
    return env.get_template("runbook.md").render(parts=ordered(parts), **facts) + "\n"
