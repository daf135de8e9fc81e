"""Strict pydantic models for TOML files: errors name the bad key, the file, and the nearest known key."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from bridge.core.errors import ConfigError


class Strict(BaseModel):
    """A strict pydantic model: unknown keys are errors, and values are frozen after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


M = TypeVar("M", bound=Strict)


def known_keys(model: type[BaseModel]) -> list[str]:
    """Lists the keys that a table of a strict model may hold, as they are written in TOML."""
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> type[BaseModel]:
    for part in loc:
        for name, field in model.model_fields.items():
            if part in (name, field.alias):
                inner = _model_in(field.annotation)
                if inner is not None:
                    model = inner
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for arg in getattr(annotation, "__args__", ()):
        found = _model_in(arg)
        if found is not None:
            return found
    return None


_WORDS = {
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "string_type": "must be text, in quotes",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
    "literal_error": "must be one of {expected}",
    "string_pattern_mismatch": "must match {pattern}",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
}
"""pydantic's kinds of errors in the words of somebody who writes TOML."""


def _in_words(item: Any) -> str:
    words = _WORDS.get(item["type"])
    return words.format(**item.get("ctx", {})) if words else str(item["msg"]).removeprefix("Value error, ")


def validated(model: type[M], data: Mapping[str, Any], where: str) -> M:
    """Validates `data` with a strict model and returns the model.

    Raises ConfigError naming each bad key, and the nearest known one if it is unknown.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines, hints = [], []
        for item in error.errors():
            key = ".".join(str(part) for part in item["loc"])
            if item["type"] == "extra_forbidden":
                keys = known_keys(_model_at(model, item["loc"][:-1]))
                near = difflib.get_close_matches(str(item["loc"][-1]), keys, 1)
                lines.append(f"unknown key '{key}'")
                hints.append(f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(keys)}")
            elif item["type"] == "missing":
                lines.append(f"key '{key}' is missing")
            else:
                lines.append(f"'{key}': {_in_words(item)}" if key else _in_words(item))
        raise ConfigError("; ".join(lines), where=where, hint=" ".join(hints)) from None
