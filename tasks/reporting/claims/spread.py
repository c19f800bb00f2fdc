"""How far a number moves when only the order of the data changes: the interval of numbers that have no other.

Norms, ranks, depths and CKA are exact for the models at hand; what is random is the training. Runs of one method and
one initialisation in several data orders tell how much. With pooled variance s^2 of one run on ``df`` degrees of
freedom (runs less groups), the difference of two runs of different methods, one training each, has the 95 % interval
``d +- t(df, .975) sqrt(2) s``. It is wide where there is one replicate (t = 12.7), as it should be. It takes the other
methods to be as noisy as those that have replicates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tasks.core.chance import student
from tasks.reporting.claims.measured import Noise
from tasks.reporting.views.pairs import Geometry

KIND = "change with another data order"


@dataclass(frozen=True)
class Pooled:
    """The spread of runs, pooled over groups of replicates.

    ``rms``: root mean square difference of two runs of one method, ``sqrt(2) s``; ``largest``: of all pairs.
    """

    rms: float
    df: int
    largest: float

    @property
    def half_width(self) -> float:
        """Half the 95 % interval of a difference of two runs."""
        return float(student(self.df)) * self.rms

    @property
    def noise(self) -> Noise:
        return Noise(KIND, 0.0, self.largest, self.df)


def order_groups(view: Geometry) -> list[tuple[str, ...]]:
    """Runs that differ in the order of their data only, group by group."""
    groups = dict.fromkeys(tuple(info.run for info in view.replicates(run)) for run in view.runs)
    return [group for group in groups if len(group) > 1]


def pooled(groups: Sequence[Sequence[str]], measures: Iterable[Callable[[str], float | None]]) -> Pooled | None:
    """The spread of ``measures`` (run -> value) within ``groups``: squares averaged over the measures, which share
    their runs and so add no degrees of freedom. None where no measure is known for every run."""
    squares, largest = [], 0.0
    df = sum(len(group) - 1 for group in groups)
    for measure in measures:
        values = [[measure(run) for run in group] for group in groups]
        complete = [[value for value in group if value is not None] for group in values]
        if any(len(own) < len(group) for own, group in zip(complete, groups, strict=True)):
            continue
        means = [sum(own) / len(own) for own in complete]
        squares.append(sum((x - m) ** 2 for own, m in zip(complete, means, strict=True) for x in own))
        largest = max([largest, *(max(own) - min(own) for own in complete)])
    if not df or not squares:
        return None
    return Pooled((2 * sum(squares) / len(squares) / df) ** 0.5, df, largest)
