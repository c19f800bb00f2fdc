"""Inside a child process: judge with math-verify, line by line, ended by a watchdog when it takes too long.

Imports nothing of colinear, so that a child starts fast and stays small.
"""

from __future__ import annotations

import json
import os
import re
import sys
from functools import lru_cache
from math import isfinite
from typing import Any
from zlib import crc32

SOFT_SECONDS = 2
"""Time limit of one parse or one comparison, taken by math-verify itself in the child."""
MEMORY = 2**31
"""Bytes of a child's address space, of which it takes a tenth: a formula that needs more ends the child."""
HARD_SECONDS = 6.0
"""Time limit of one whole judgement; past it the child ends and a new one is started."""

Reply = tuple[bool, str | None, bool]
"""Whether the answer equals the gold, what was read of the answer, and whether the gold was read."""

_LATEX = re.compile(r"[\\{}]")


def serve() -> None:
    """One JSON line ``[answer or null, gold]`` in, one line `Reply` out, until the input ends.

    For a line ``[text]`` it is `magnitude`, in a list too.
    """
    import faulthandler
    import logging
    import resource
    import signal

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # whatever a library prints must not look like a reply
    logging.disable(logging.CRITICAL)
    compare(r"\boxed{\frac{1}{2}}", r"\boxed{0.5}")  # loads sympy and the grammar before the clock runs
    replies.write("ready\n")
    replies.flush()
    for line in sys.stdin:
        faulthandler.dump_traceback_later(HARD_SECONDS, exit=True)
        texts = json.loads(line)
        reply = json.dumps(compare(*texts) if len(texts) > 1 else [magnitude(*texts)])
        faulthandler.cancel_dump_traceback_later()
        replies.write(reply + "\n")
        replies.flush()


def compare(answer: str | None, gold: str) -> Reply:
    """What math-verify says of two marked texts; of the gold alone where ``answer`` is None.

    Needs the main thread (math-verify's time limits are signals).
    """
    from math_verify import verify

    reference = _parsed(gold)
    known = any(not isinstance(item, str) or (not _LATEX.search(item) and _has_word(item)) for item in reference)
    if answer is None:
        return False, None, known
    read = _parsed(answer)
    if not read:
        return False, None, known
    same = verify(reference, read, timeout_seconds=SOFT_SECONDS)
    return bool(same), next((item for item in reversed(read) if isinstance(item, str)), None) or answer, known


def magnitude(text: str) -> float | None:
    """A number that two marked texts share if `compare` finds them equal, up to its rounding; None where none is known.

    The value of an expression, each letter in it standing for a number of its own. None for what is compared by other
    rules: relations, sets, tuples, a percentage (which is equal to two numbers), a single letter or word.
    """
    from sympy import Expr, Symbol

    read = [item for item in _parsed(text) if not isinstance(item, str)]
    if len(read) != 1 or not isinstance(read[0], Expr) or isinstance(read[0], Symbol) or "%" in text:
        return None
    letters = {symbol: 1 + crc32(str(symbol).encode()) / 2**32 for symbol in read[0].free_symbols}
    try:
        value = complex(read[0].evalf(15, subs=letters))
    except (ArithmeticError, AttributeError, TypeError, ValueError):  # sympy has no number for it
        return None
    return value.real if value.imag == 0 and isfinite(value.real) else None


@lru_cache(maxsize=256)
def _parsed(text: str) -> list[Any]:
    """K completions of one problem share its gold, and votes compare one answer with several."""
    from math_verify import parse

    return list(parse(text, parsing_timeout=SOFT_SECONDS))


def _has_word(text: str) -> bool:
    return any(character.isalnum() for character in text)
