"""Runs a verb of the command line for each group of bridge.toml, as each group has a ledger of its own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bridge.cli.common import Options, collected, complain, emit
from bridge.core.errors import BridgeError, ConfigError

WORST = (1, 2, 5, 3, 4, 130)
"""Exit codes, the one that counts first: failed, wrong usage, no Redis, findings, inconclusive, interrupted."""


def never(given: dict[str, Any]) -> bool:
    """Says of a verb, whatever its arguments, that it changes nothing."""
    return False


def executes(given: dict[str, Any]) -> bool:
    """Says of a verb that it changes something with --execute alone."""
    return bool(given["execute"])


def each_group(
    names: str = "", *, changes: Callable[[dict[str, Any]], bool] = never, alone: str = "", single: bool = False
) -> Callable[..., Callable[..., Any]]:
    """Makes a decorator that runs a verb once for each group that has some of the mappings which the verb names.

    `names`: the argument of the verb with the name or the names of mappings, of which there may be none; empty: there
    is no such argument, and the verb runs for all groups. `changes` tells by the verb's arguments whether it changes
    anything: then mappings are brought over that bridge.toml has moved, else the verb refuses to tell of these.
    `alone`: an argument that makes sense within one group only; `single`: the whole verb does. The JSON documents of
    all groups become one, and the worst exit code counts.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(options: Options, **rest: Any) -> Any:
            given = rest.get(names) if names else None
            wanted = [given] if isinstance(given, str) else [*(given or ())]
            parts = shares(options, wanted)
            if len(parts) > 1 and (single or (alone and rest.get(alone))):
                named = ", ".join(part.group or "(none)" for part, _ in parts)
                hint = f"name a mapping{' or a group: --group NAME' if not alone else ', or say --group NAME'}"
                raise ConfigError(f"there are several groups: {named}", hint=hint)

            def run(part: Options, mine: tuple[str, ...]) -> Any:
                if changes(rest):
                    part.bring_over()
                else:
                    part.must_have(mine)
                return function(part, **{**rest, **({names: mine} if isinstance(given, tuple) else {})})

            return run(*parts[0]) if len(parts) == 1 else in_each(parts, run)

        return wrapped

    return decorate


def in_each(
    parts: Sequence[tuple[Options, tuple[str, ...]]], run: Callable[[Options, tuple[str, ...]], int | None]
) -> int:
    """Runs a verb in each of these groups, with its share of the named mappings, and returns the worst exit code.

    The JSON documents of all become one. What fails in a group is told, and the others go on: they have other ledgers.
    """
    codes: list[int | None] = []
    with collected() as documents:
        for part, mine in parts:
            try:
                codes.append(run(part, mine))
            except BridgeError as error:
                complain(error)
                codes.append(error.exit_code)
    if documents:
        emit(joined(documents))
    return worst(codes)


def shares(options: Options, names: Sequence[str]) -> list[tuple[Options, tuple[str, ...]]]:
    """Shares the mappings that a verb names, or streams of them, out to the groups that have them.

    Without names to all groups, each with none. Raises ConfigError: several groups, and none has a mapping of a name.
    """
    parts = options.parts(names)
    if len(parts) == 1:
        return [(parts[0], tuple(names))]
    found = []
    for part in parts:
        mine = {mapping.name for mapping in part.as_written().mappings}
        found.append((part, tuple(name for name in names if name in mine or name.partition(":")[0] in mine)))
    return found


def worst(codes: Iterable[int | None]) -> int:
    """Returns the exit code of a verb that ran for several groups: the worst of theirs."""
    found = {code or 0 for code in codes} - {0}
    return min(found, key=lambda code: WORST.index(code) if code in WORST else 0, default=0)


def joined(documents: Sequence[object]) -> object:
    """Joins the JSON documents that a verb emitted in several groups into one of the same shape.

    Lists are put together, and objects key by key; of other values that differ the first stands.
    """
    first = documents[0]
    if isinstance(first, list):
        return [item for document in documents for item in (document if isinstance(document, list) else [document])]
    if isinstance(first, dict):
        objects = [document for document in documents if isinstance(document, dict)]
        keys = dict.fromkeys(key for document in objects for key in document)
        return {key: joined([document[key] for document in objects if key in document]) for key in keys}
    return first
