"""A report's folder on disk: each file whole or not at all, and ``study.json`` with the digest of every other."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import polars as pl

from tasks.core.digests import file_digest
from tasks.core.errors import InputError

RECORDS = ("study.json", "compare.json", "many.json", "accuracy.json", "trajectory.json")
"""One of them lies beside every page of ours."""


def check_out(out: Path) -> None:
    """Refuse a folder that cannot be written to. Raises `InputError`.

    Found out by writing: root has every permission, and still /proc, or a read-only file system, takes no file.
    """
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise InputError(f"--out: {there} is a file; give a folder")
    try:
        with tempfile.TemporaryDirectory(prefix=".colinear-", dir=there):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"--out: {there} cannot be written to ({reason}); give another folder") from None
    if (out / "report.html").exists() and not any((out / name).is_file() for name in RECORDS):
        raise InputError(f"--out: {out} has a report.html that colinear did not write; give another folder")


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


FILES, OWN = "files", "sha256"
"""Keys of ``study.json``: {name: sha256} of the other files; sha256 of the record's canonical JSON without this key."""


def sealed_json(record: Mapping[str, Any], others: Mapping[str, bytes]) -> str:
    """``record`` as indented JSON with both keys; ``others``: the folder's other files."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(others.items())}
    plain = json.loads(json_text({key: value for key, value in record.items() if key != OWN} | {FILES: digests}))
    return json_text({**plain, OWN: _digest(plain)})


def check_sealed(folder: Path, record: Mapping[str, Any]) -> None:
    """Raise `InputError`, naming the file, where ``record`` or a frame or record beside it is not what was written.

    A record without the keys is of an earlier version, and says nothing.
    """
    files = record.get(FILES)
    if OWN not in record and files is None:
        return
    if not isinstance(files, dict) or record.get(OWN) != _digest(record):
        _refuse(folder, "study.json is damaged: it does not have the digest that it was written with")
    for name, digest in files.items():
        if not name.endswith((".parquet", ".json")):  # for people; what is read back are these
            continue
        if not (folder / name).is_file():
            _refuse(folder, f"{name} is missing")
        if file_digest(folder / name) != digest:
            _refuse(folder, f"{name} is damaged: it does not have the digest that study.json has for it")


def _digest(record: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in record.items() if key != OWN}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _refuse(folder: Path, what: str) -> NoReturn:
    raise InputError(f"{folder}: {what}; run the study again, which makes its report anew")
