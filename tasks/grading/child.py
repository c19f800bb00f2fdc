"""Inside a child process: judge with math-verify, line by line, ended when it takes too long.

Imports nothing of colinear, so that a child starts fast and stays small.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from functools import lru_cache
from math import ceil, isfinite
from time import process_time
from typing import Any
from zlib import crc32

SOFT_SECONDS = 2.0
"""Limit of one parse or one comparison, in seconds of the processor: a busy machine must not change a grade."""
MEMORY = 2**31
"""Bytes of a child's address space, of which it takes a tenth: a formula that needs more ends the child."""
HARD_SECONDS = 6.0
"""Limit of one whole judgement, in seconds of the processor; past it the child ends and a new one is started."""
STUCK_SECONDS = 60.0
"""The same on the clock, for a child that waits for something."""
_EXACT_BITS = 53
"""A decimal of up to 15 significant digits is taken at its word; sympy gives more than these bits to one with more,
which is a binary number's print-out: 0.30000000000000004 is 0.3, 0.3333333333333333 is 1/3."""
_ROUNDED = 5e-7
"""Relative: a decimal stands for an irrational number that it gives to seven significant digits."""

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
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = resource.getrlimit(resource.RLIMIT_CPU)[1]
    for line in sys.stdin:
        faulthandler.dump_traceback_later(STUCK_SECONDS, exit=True)
        resource.setrlimit(resource.RLIMIT_CPU, (ceil(process_time() + HARD_SECONDS), most))  # SIGXCPU ends even C code
        texts = json.loads(line)
        reply = json.dumps(compare(*texts) if len(texts) > 1 else [magnitude(*texts)])
        faulthandler.cancel_dump_traceback_later()
        replies.write(reply + "\n")
        replies.flush()


def compare(answer: str | None, gold: str) -> Reply:
    """What math-verify says of two marked texts; of the gold alone where ``answer`` is None.

    Needs the main thread (math-verify's time limits are signals).
    """
    verify = _verifier()
    reference = _parsed(gold)
    known = any(not isinstance(item, str) or (not _LATEX.search(item) and _has_word(item)) for item in reference)
    if answer is None:
        return False, None, known
    read = _parsed(answer)
    if not read:
        return False, None, known
    same = _limited(lambda: verify(reference, read, timeout_seconds=None), False)
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
    try:
        value = complex(read[0].evalf(15, subs=_letters(read[0])))
    except (ArithmeticError, AttributeError, TypeError, ValueError):  # sympy has no number for it
        return None
    return value.real if value.imag == 0 and isfinite(value.real) else None


@lru_cache(maxsize=256)
def _parsed(text: str) -> list[Any]:
    """K completions of one problem share its gold, and votes compare one answer with several."""
    from math_verify import parse

    return list(_limited(lambda: parse(text, parsing_timeout=None), []))


@lru_cache(maxsize=1)
def _verifier() -> Callable[..., bool]:
    """math-verify's comparison (of sets, intervals, relations, matrices, ...), its leaves compared by `_same_number`.

    It rounds numbers to six decimals, and takes differences below 1e-15 for none: 2^-98 would be 2^-99.
    """
    from math_verify import grader

    theirs = grader.sympy_numeric_eq

    def numeric_eq(a: Any, b: Any, *settings: int) -> bool:
        found = _same_number(a, b)
        return theirs(a, b, *settings) and not _told_apart(a, b) if found is None else found

    grader.sympy_numeric_eq = numeric_eq
    return grader.verify


def _same_number(a: Any, b: Any) -> bool | None:
    """Whether two expressions are one number, None where one of them is none.

    Rationals (a decimal is one) exactly; else to 20 digits, or, where one has a decimal, to `_ROUNDED`. A percentage is
    its value and its hundredth.
    """
    from math_verify.grader import get_pct_val
    from sympy import Expr

    if not all(isinstance(one, Expr) and not one.free_symbols for one in (a, b)):
        return None
    if (get_pct_val(a) is None) != (get_pct_val(b) is None):
        pairs = [(get_pct_val(a, a), get_pct_val(b, b)), (a.doit(), b.doit())]
    else:
        pairs = [(get_pct_val(a, a), get_pct_val(b, b))]
    found = [_equal(x, y) for x, y in pairs]
    return None if None in found else any(found)


def _equal(a: Any, b: Any) -> bool | None:
    from sympy import Float

    printed = a.atoms(Float) | b.atoms(Float)
    a, b = _exact(a), _exact(b)
    x, y = a.evalf(30), b.evalf(30)
    if not (x.is_number and y.is_number and x.is_finite and y.is_finite):
        return None
    most = max(abs(x), abs(y))
    if abs(x - y) > _ROUNDED * most:
        return False
    a, b = a.doit(), b.doit()
    if not (a.is_Rational and b.is_Rational):
        return bool(abs(x - y) <= (_ROUNDED if printed else 1e-20) * most)
    binary = any(number._prec > _EXACT_BITS for number in printed)
    return bool(a == b or (binary and abs(x - y) <= 1e-15 * most))


def _exact(expression: Any) -> Any:
    """An expression with its decimals as the fractions that they are."""
    from sympy import Float, Rational

    return expression.xreplace({number: Rational(str(number)) for number in expression.atoms(Float)})


def _told_apart(a: Any, b: Any) -> bool:
    """Whether two expressions in letters differ where each letter is a number of its own: 2^{-98} x and 2^{-99} x."""
    from sympy import Expr

    if not (isinstance(a, Expr) and isinstance(b, Expr)):
        return False
    letters = _letters(a) | _letters(b)
    x, y = (_exact(one).evalf(30, subs=letters) for one in (a, b))
    return bool(x.is_number and y.is_number and abs(x - y) > 1e-9 * max(abs(x), abs(y)))


def _letters(expression: Any) -> dict[Any, float]:
    return {symbol: 1 + crc32(str(symbol).encode()) / 2**32 for symbol in expression.free_symbols}


def _limited(work: Callable[[], Any], late: Any) -> Any:
    """What ``work`` returns, ``late`` where it takes more than `SOFT_SECONDS` of the processor."""
    import signal

    from math_verify.errors import TimeoutException

    def stop(*_: Any) -> None:
        raise TimeoutException

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SOFT_SECONDS)
    try:
        return work()
    except TimeoutException:
        return late
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _has_word(text: str) -> bool:
    return any(character.isalnum() for character in text)
