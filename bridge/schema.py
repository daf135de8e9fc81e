"""Strict pydantic models whose errors name the key, the file, and the nearest known key."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from bridge.errors import ConfigError


class Strict(BaseModel):
    """Unknown keys are errors; values are frozen after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


M = TypeVar("M", bound=Strict)


def known_keys(model: type[BaseModel]) -> list[str]:
    """The keys a table of this model may hold, as they are written in TOML."""
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


def validated(model: type[M], data: Mapping[str, Any], where: str) -> M:
    """`data` as a `model`. Raises ConfigError naming each bad key, and the nearest known one if it is unknown."""
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
                lines.append(f"'{key}': {item['msg'].removeprefix('Value error, ')}")
        raise ConfigError("; ".join(lines), where=where, hint=" ".join(hints)) from None
