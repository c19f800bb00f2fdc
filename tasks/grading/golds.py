"""Golds that cannot be read are refused before any work: every answer to them would be marked wrong."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.core.errors import InputError
from tasks.grading.grade import unparsed_golds


def check_golds(
    golds: Sequence[str], ids: Sequence[str], source: str, way_out: str = "correct it or leave it out"
) -> None:
    """Raise `InputError` naming ``source``, the first problem whose gold cannot be read, and how many there are.

    Takes about 4 ms a distinct gold that is no integer, divided by the cores.
    """
    refuse_unread(unparsed_golds(golds), golds, ids, source, way_out)


def refuse_unread(unread: Sequence[int], golds: Sequence[str], ids: Sequence[str], source: str, way_out: str) -> None:
    """The refusal of `check_golds` where the indices ``unread`` of the golds that cannot be read are known."""
    if unread:
        first = unread[0]
        more = f" (and {len(unread) - 1} more)" if len(unread) > 1 else ""
        raise InputError(
            f"{source}: the gold of problem {ids[first]!r} cannot be read as an answer: {_short(golds[first])}{more}; "
            f"{way_out}"
        )


def _short(gold: str) -> str:
    return repr(gold if len(gold) <= 60 else f"{gold[:57]}...")
