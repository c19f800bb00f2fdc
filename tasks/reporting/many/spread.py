"""How the spread of several values of one number reads: in a sentence, and in a cell."""

from __future__ import annotations

from collections.abc import Callable

from tasks.reporting.estimates import Spread
from tasks.reporting.formats import NOT_MEASURED
from tasks.reporting.tables.views import Cell


def told(found: Spread | None, form: Callable[[float], str]) -> str:
    """``'0.98 (0.97 to 0.99, n = 3)'``, for sentences."""
    if found is None:
        return NOT_MEASURED
    if found.n == 1:
        return f"{form(found.mean)} (n = 1)"
    return f"{form(found.mean)} ({found.range(form)}, n = {found.n})"


def cell(
    found: Spread | None, form: Callable[[float], str], width: Callable[[float], str] | None = None, of: int = 0
) -> Cell:
    """The mean, below it the standard deviation and the range, and n where it is not ``of``, which stands beside.

    ``width``: how a deviation reads, where it has another form than the value.
    """
    if found is None:
        return Cell(NOT_MEASURED)
    n = () if found.n == of else (f"n = {found.n}",)
    if found.sd is None:
        return Cell(form(found.mean), ("no spread", *n))
    return Cell(form(found.mean), (f"sd {(width or form)(found.sd)}", found.range(form), *n))
