"""A report's folder on disk: each file whole or not at all."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl


def write_files(out: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Write ``contents`` (name, with "/" for a folder in it -> bytes) into ``out``, made if need be, and return the
    paths in the same order."""
    # The first, the page, last: where it is new, so is everything it points to.
    for name in reversed(list(contents)):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        _replace(out / name, contents[name])
    return [out / name for name in contents]


def parquet(frame: pl.DataFrame) -> bytes:
    """The frame as a parquet file's bytes; equal frames give equal bytes."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def json_text(record: Mapping[str, Any]) -> str:
    """``record`` as indented JSON; what JSON cannot hold becomes null (NaN) or its text (paths)."""
    return json.dumps(_plain(record), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def _replace(path: Path, content: bytes) -> None:
    """``content`` in place of ``path`` in one step; a failure leaves the old file and no temporary one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
