"""What strangers named (files, problems, tensors), made fit for a line of a terminal, a message, a path or a record.

Below everything else: it imports nothing of colinear.
"""

from __future__ import annotations

import posixpath
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def visible(text: str, most: int | None = None) -> str:
    r"""``text`` on one line with nothing in it that a terminal obeys.

    Line breaks and tabs become spaces; whatever else does not print (escape sequences, control characters, overrides
    of the writing direction, half surrogates) is spelled out, as ``\x1b``. Beyond ``most`` characters the middle is
    left out: a message begins with where and ends with the way out.
    """
    if most is not None and len(text) > 16 * most:  # what is left out need not be spelled first
        text = f"{text[: 8 * most]}{text[-8 * most :]}"
    if not text.isprintable():
        text = "".join(map(_spelled, text))
    if most is None or len(text) <= most:
        return text
    head = 2 * most // 3
    return f"{text[:head]} ... {text[head + 5 - most :]}"


def _spelled(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() and ord(character) < 128 else character.encode("unicode_escape").decode()


_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def uncontrolled(text: str) -> str:
    r"""``text`` as it is, on as many lines, but for control characters: they are spelled out, as ``\x1b``."""
    return _CONTROLS.sub(lambda found: _spelled(found[0]), text)


def file_name(text: str) -> str:
    """``text`` as one part of a path: letters, digits and what no file system and no shell reads otherwise."""
    return re.sub(r"[^\w.+=,-]+", "-", text).strip("-.")[:50] or "study"


def dated_folder(name: str) -> Path:
    """Where a report goes that was given no folder: one under ``runs/`` with the name and the time."""
    return Path("runs") / f"{file_name(name)}-{time.strftime('%Y%m%d-%H%M%S')}"


def parameter_names(params: Mapping[str, Any]) -> dict[str, Any]:
    """``params`` under names that MLflow takes (letters, digits, ``_-. :/``, no path that means another), each once."""
    named: dict[str, Any] = {}
    for name, value in params.items():
        fit = re.sub(r"[^\w.\- :/]", "_", name)[:200]
        if posixpath.normpath(fit) != fit or fit.startswith(("/", "..")) or fit == ".":
            fit = re.sub(r"^\.+|/", "_", fit) or "_"
        number = 2
        while fit in named:
            fit, number = f"{fit[:190]} {number}", number + 1
        named[fit] = value
    return named
