"""Regular expressions in a stranger's ``adapter_config.json``: tried, before anything matches them, where they can be
ended. A pattern such as ``(a+)+$`` takes longer than anybody waits, and nothing interrupts Python's matcher."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.core.errors import InputError

SECONDS = 5
"""Of a core, for all patterns on all names; what people write takes milliseconds."""
LONGEST = 1000
"""Characters of a pattern, and of a tensor's name."""
MOST = 1_000_000
"""Matches of patterns without repeats that are tried without a limit of time: a second's work."""

_REPEATS = re.compile(r"[*+{?]")
_FIELDS = ("target_modules", "exclude_modules", "layers_pattern")
BY_KEY = ("rank_pattern", "alpha_pattern")
"""Fields whose keys are patterns: all that scale * B A depends on."""

_TRY = """
import json, re, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[1]),) * 2)
patterns, names = json.load(sys.stdin)
for pattern in patterns:
    for form in (pattern, f"(.*\\\\.)?({pattern})$", f".*\\\\.[^.]*{pattern}\\\\.(\\\\d+)\\\\."):
        matcher = re.compile(form)
        for name in names:
            matcher.match(name)
            matcher.fullmatch(name)
"""
"""The forms in which PEFT (0.21) matches them."""


def check_patterns(raw: Mapping[str, Any], names: Sequence[str], file: Path) -> None:
    """Refuse patterns of ``raw`` that are no regular expressions, or take too long on ``names``. Raises `InputError`
    naming ``file`` and the field."""
    patterns = {pattern: field for field in _FIELDS for pattern in _texts(raw.get(field))}
    for field in BY_KEY:
        if not isinstance(raw.get(field) or {}, dict):
            raise InputError(f"{file}: {field} is not an object")
        patterns |= dict.fromkeys(raw.get(field) or {}, field)
    for pattern, field in patterns.items():
        if len(pattern) > LONGEST:
            raise InputError(f"{file}: {field} has a pattern of {len(pattern)} characters; the longest is {LONGEST}")
        try:
            re.compile(rf"(.*\.)?({pattern})$")
        except (re.error, RecursionError, OverflowError) as error:
            what = "key " if field in BY_KEY else ""
            raise InputError(f"{file}: {field} {what}{pattern!r} is not a regular expression ({error})") from error
    if not any(map(_REPEATS.search, patterns)) and len(patterns) * len(names) <= MOST:
        return
    tried = subprocess.run(
        [sys.executable, "-I", "-c", _TRY, str(SECONDS)],
        input=json.dumps([list(patterns), list(names)]).encode(),
        capture_output=True,
    )
    if tried.returncode < 0:  # the kernel ended it
        fields = ", ".join(dict.fromkeys(patterns.values()))
        raise InputError(
            f"{file}: its patterns ({fields}) take more than {SECONDS} s to match; write the modules' names instead"
        )


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [one for one in values if isinstance(one, str)]
