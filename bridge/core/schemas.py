"""The JSON Schemas of bridge.toml and of mapping files, by which editors complete them and find mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bridge.core.config import ConfigFile
from bridge.core.mapping import Mapping

DIALECT = "https://json-schema.org/draft/2020-12/schema"
FOLDER = "schema"
"""The folder below the state directory in which editors find the schemas."""


def config_schema() -> dict[str, Any]:
    """Makes the JSON Schema of bridge.toml."""
    return {"$schema": DIALECT, **ConfigFile.model_json_schema()}


def mapping_schema() -> dict[str, Any]:
    """Makes the JSON Schema of a mapping file."""
    return {"$schema": DIALECT, **Mapping.model_json_schema()}


def directive(state_dir: str, name: str) -> str:
    """Words the comment by which a TOML file names its schema to editors: `config` or `mapping`."""
    return f"#:schema {state_dir}/{FOLDER}/{name}.json"


def write_schemas(state_dir: Path) -> None:
    """Writes both schemas below the state directory. Raises OSError."""
    folder = state_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, schema in (("config", config_schema()), ("mapping", mapping_schema())):
        (folder / f"{name}.json").write_text(json.dumps(schema, indent=1) + "\n", encoding="utf-8")
