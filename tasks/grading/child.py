"""Inside a child process: judge with math-verify, line by line, ended by a watchdog when it takes too long.

Imports nothing of colinear, so that a child starts fast and stays small.
"""

from __future__ import annotations

import json
import os
import re
import sys
from functools import lru_cache
from typing import Any

SOFT_SECONDS = 2
"""Time limit of one parse or one comparison, taken by math-verify itself in the child."""
HARD_SECONDS = 6.0
"""Time limit of one whole judgement; past it the child ends and a new one is started."""

Reply = tuple[bool, str | None, bool]
"""Whether the answer equals the gold, what was read of the answer, and whether the gold was read."""

_LATEX = re.compile(r"[\\{}]")


def serve() -> None:
    """One JSON line ``[answer or null, gold]`` in, one line `Reply` out, until the input ends."""
    import faulthandler
    import logging
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # whatever a library prints must not look like a reply
    logging.disable(logging.CRITICAL)
    compare(r"\boxed{\frac{1}{2}}", r"\boxed{0.5}")  # loads sympy and the grammar before the clock runs
    replies.write("ready\n")
    replies.flush()
    for line in sys.stdin:
        faulthandler.dump_traceback_later(HARD_SECONDS, exit=True)
        reply = json.dumps(compare(*json.loads(line)))
        faulthandler.cancel_dump_traceback_later()
        replies.write(reply + "\n")
        replies.flush()


def compare(answer: str | None, gold: str) -> Reply:
    """What math-verify says of two marked texts; of the gold alone where ``answer`` is None.

    Needs the main thread (math-verify's time limits are signals).
    """
    from math_verify import parse, verify

    reference = _gold(gold)
    known = any(not isinstance(item, str) or (not _LATEX.search(item) and _has_word(item)) for item in reference)
    if answer is None:
        return False, None, known
    read: list[Any] = parse(answer, parsing_timeout=SOFT_SECONDS)
    if not read:
        return False, None, known
    same = verify(reference, read, timeout_seconds=SOFT_SECONDS)
    return bool(same), next((item for item in reversed(read) if isinstance(item, str)), None) or answer, known


@lru_cache(maxsize=256)
def _gold(gold: str) -> list[Any]:
    """K completions of one problem share its gold."""
    from math_verify import parse

    return list(parse(gold, parsing_timeout=SOFT_SECONDS))


def _has_word(text: str) -> bool:
    return any(character.isalnum() for character in text)
