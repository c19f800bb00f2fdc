"""``docker/compose.yaml`` as a compose tool reads it, without one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker" / "compose.yaml"
SECRETS = ("POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY", "PREFECT_AUTH", "MLFLOW_PASSWORD")
VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?::(?P<sign>[-?])(?P<text>[^}]*))?\})")


def variables() -> list[tuple[str, str, str]]:
    """(name, ``-``, ``?`` or nothing, default or message) of every variable of the file."""
    uncommented = "\n".join(re.sub(r"(^|\s)#.*", "", line) for line in COMPOSE.read_text().splitlines())
    return [
        (found["name"], found["sign"] or "", found["text"] or "")
        for found in VARIABLE.finditer(uncommented)
        if found["name"]
    ]


def services(values: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Every service, with the variables' values put in. Raises `KeyError` for a required one that is missing."""
    found: dict[str, dict[str, Any]] = _put_in(yaml.safe_load(COMPOSE.read_text())["services"], values)
    return found


def _put_in(value: Any, values: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _put_in(one, values) for key, one in value.items()}
    if isinstance(value, list):
        return [_put_in(one, values) for one in value]
    return VARIABLE.sub(lambda found: _one(found, values), value) if isinstance(value, str) else value


def _one(found: re.Match[str], values: Mapping[str, str]) -> str:
    if not found["name"]:
        return "$"
    given = values.get(found["name"], "")
    if found["sign"] == "?" and not given:
        raise KeyError(found["name"])
    return given or (found["text"] if found["sign"] == "-" else "")
