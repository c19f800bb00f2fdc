"""Like with like: how alike two methods are across data orders, beside how alike each is to itself across data orders.

Two methods that were trained in ONE order of the data share that order's noise; two runs of one method in two orders do
not. So a cosine in one order lies above a noise floor of two orders even where the methods differ. What the floor
judges is a run of the one method in one order against a run of the other method in another; the value in one order is
"with common noise" and has no floor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from statistics import fmean

from tasks.core.chance import student
from tasks.core.results import RunInfo

Value = Callable[[str, str], float | None]
"""(run, other) -> a measure of the pair; None where it was not measured."""


@dataclass(frozen=True)
class Likeness:
    """One measure of two methods of one LoRA initialisation.

    ``one_order``: data order -> the value of the two runs in it, with common noise. ``across``: the values of two runs
    in two orders; ``shifted``: those of them that share no training, order by order: independent of each other.
    ``within``: values of two runs of ONE method in two orders, of the first and of the second method: the floor.
    """

    one_order: dict[int, float]
    across: tuple[float, ...]
    shifted: tuple[float, ...]
    within: tuple[tuple[float, ...], tuple[float, ...]]

    @property
    def floor(self) -> tuple[float, ...]:
        """What either method gives with itself; empty where neither was trained in two orders."""
        return (*self.within[0], *self.within[1])

    @property
    def mean(self) -> float | None:
        """Across data orders."""
        return fmean(self.across) if self.across else None


def likeness(a: Sequence[RunInfo], b: Sequence[RunInfo], value: Value, *, distance: bool = False) -> Likeness:
    """The `Likeness` of two methods from their replicates ``a`` and ``b``, which differ in the order of the data only.

    Two runs are in two orders where both orders are known and differ. Where a run's order is not known (an adapter that
    somebody else trained) it may be any other's: then only the least alike of its values counts (the largest where the
    measure is a ``distance``), and none where there is just one.
    """

    def of(x: RunInfo, y: RunInfo) -> float | None:
        return None if x.run == y.run else value(x.run, y.run)

    one_order: dict[int, float] = {}
    known: list[float] = []
    unknown: list[float] = []
    for x, y in product(a, b):
        found = of(x, y)
        if found is None:
            continue
        if x.data_seed is None or y.data_seed is None:
            unknown.append(found)
        elif x.data_seed == y.data_seed:
            one_order[x.data_seed] = found
        else:
            known.append(found)
    if not known and len(unknown) > 1:
        known = [max(unknown) if distance else min(unknown)]
    within = [tuple(v for x, y in combinations(own, 2) if (v := of(x, y)) is not None) for own in (a, b)]
    return Likeness(one_order, tuple(known), _shifted(a, b, of), (within[0], within[1]))


def _shifted(
    a: Sequence[RunInfo], b: Sequence[RunInfo], of: Callable[[RunInfo, RunInfo], float | None]
) -> tuple[float, ...]:
    """Order i of the one with order i + 1 of the other, round the orders that both have; empty below two of them."""
    first = {x.data_seed: x for x in a if x.data_seed is not None}
    second = {y.data_seed: y for y in b if y.data_seed is not None}
    orders = sorted(first.keys() & second.keys())
    if len(orders) < 2:
        return ()
    values = [of(first[i], second[j]) for i, j in zip(orders, [*orders[1:], orders[0]], strict=True)]
    return tuple(value for value in values if value is not None)


def t_interval(values: Sequence[float], centre: float | None = None) -> tuple[float, float] | None:
    """95 % interval of a mean of independent values (Student's t); None below two of them.

    ``centre``: a better estimate of the same mean that stands in its middle; default: the mean itself.
    """
    n = len(values)
    if n < 2:
        return None
    mean = fmean(values)
    error = (sum((value - mean) ** 2 for value in values) / (n - 1) / n) ** 0.5
    half = float(student(n - 1)) * error
    middle = mean if centre is None else centre
    return middle - half, middle + half


@dataclass(frozen=True)
class Difference:
    """The difference of two methods' updates, ``d = B - A``, in each data order.

    ``share``: its norm as a share of A's, mean over the orders. ``repeats``: cosine of ``d`` in one order with ``d`` in
    another, for every two orders: near 1 for a difference that comes back, near 0 for one that is noise.
    ``deattenuated``: the inner product of A and B across orders over the geometric mean of those of A with A and B with
    B: their cosine if neither had noise (Spearman 1904).
    """

    orders: int
    share: float
    repeats: tuple[float, ...]
    deattenuated: float | None


def difference(a: Sequence[RunInfo], b: Sequence[RunInfo], cosine: Value, norm_ratio: Value) -> Difference | None:
    """Of two methods with replicates in at least two common orders; None otherwise, and where a cosine is missing.

    From cosines and norms alone: ``<d_i, d_j> = <B_i,B_j> - <B_i,A_j> - <A_i,B_j> + <A_i,A_j>``.
    """
    first = {x.data_seed: x.run for x in a if x.data_seed is not None}
    second = {y.data_seed: y.run for y in b if y.data_seed is not None}
    orders = sorted(first.keys() & second.keys())
    if len(orders) < 2:
        return None
    unit = first[orders[0]]
    runs = [*(first[i] for i in orders), *(second[i] for i in orders)]
    sizes = {run: 1.0 if run == unit else norm_ratio(run, unit) for run in runs}
    cosines = {(x, y): 1.0 if x == y else cosine(x, y) for x, y in product(runs, runs)}
    if any(size is None for size in sizes.values()) or any(value is None for value in cosines.values()):
        return None

    def inner(x: str, y: str) -> float:
        return float(cosines[x, y] or 0.0) * float(sizes[x] or 0.0) * float(sizes[y] or 0.0)

    def between(i: int, j: int) -> float:
        """``<d_i, d_j>``."""
        x, y, u, v = first[i], first[j], second[i], second[j]
        return inner(u, v) - inner(u, y) - inner(x, v) + inner(x, y)

    lengths = {i: max(between(i, i), 0.0) ** 0.5 for i in orders}
    share = fmean(lengths[i] / float(sizes[first[i]] or 1.0) for i in orders)
    two = list(combinations(orders, 2))
    repeats = tuple(between(i, j) / (lengths[i] * lengths[j]) for i, j in two if lengths[i] and lengths[j])
    crossed = fmean((inner(first[i], second[j]) + inner(first[j], second[i])) / 2 for i, j in two)
    own = [fmean(inner(side[i], side[j]) for i, j in two) for side in (first, second)]
    return Difference(len(orders), share, repeats, crossed / (own[0] * own[1]) ** 0.5 if min(own) > 0 else None)
