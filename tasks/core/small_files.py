"""Text and JSON that strangers wrote, read within bounds: of size, of nesting, and no key that is there twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LARGEST = 2**26
"""Bytes of a configuration, an index or a file of settings. The index of a model of 100,000 tensors has a sixth."""


DEEPEST = 64
"""Lists and objects within each other, beyond which writing a value down again may end Python's stack."""


def read_text(path: Path, most: int = LARGEST) -> str:
    """A file's text. Raises `OSError` for what is no file, and ValueError for one that is too large or no UTF-8."""
    if "\0" in str(path) or (path.exists() and not path.is_file() and not path.is_dir()):
        raise OSError("no regular file")  # a pipe would be waited for
    with path.open("rb") as file:
        raw = file.read(most + 1)
    if len(raw) > most:
        raise ValueError(f"it is larger than {most >> 20} MiB")
    return raw.decode("utf-8-sig")


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises `OSError` as `read_text` does, and ValueError for anything else."""
    values = parse(read_text(path))
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")
    if depth(values) > DEEPEST:
        raise ValueError("nested too deep")
    return values


def depth(values: Any) -> int:
    """How many lists and tables are within each other."""
    levels, level = 0, [values]
    while level := [one for one in level if isinstance(one, dict | list)]:
        levels += 1
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return levels


class TwiceError(ValueError):
    """A key that is there twice: two readers may take two values for it."""


def parse(text: str) -> Any:
    """JSON. Raises ValueError: no JSON, a number or nesting beyond what is read, `TwiceError` for a key given twice."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise TwiceError(f"key {twice[:60]!r} is there twice")
    return values


def expanded(path: str | Path) -> Path:
    """``path`` with ``~`` as a shell reads it; as it is where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


_POINTERS = (b"version https://git-lfs", b"version https://hawser", b"# xet version")
_PAGES = (b"<!doctype html", b"<html", b"<?xml")


def not_weights(path: Path) -> str:
    """What was saved in place of a file of weights, with the way out in one line; empty where nothing known was.

    A clone without Git LFS has a pointer of some 130 bytes in place of each large file, and a download that was
    refused has a web page. Raises nothing: a file that cannot be read is for its reader to refuse.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64).lstrip().lower()
    except OSError:
        return ""
    if start.startswith(_POINTERS):
        return (
            f"{path}: a Git LFS pointer ({path.stat().st_size} bytes), not the weights: run `git lfs pull` in its "
            "repository, or download the file itself"
        )
    if start.startswith(_PAGES):
        return f"{path}: a web page, not weights; download the file itself, with the rights that it takes"
    return ""
