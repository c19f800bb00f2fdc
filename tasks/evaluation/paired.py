"""Pairs of models on the problems that both answered: the paired statistics that evaluation logs lack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.core.errors import InputError
from tasks.core.frames import LOG_MODELS, LOG_PAIRS
from tasks.core.results import LEVEL
from tasks.evaluation.intervals import holm, paired_bootstrap, paired_interval, share_interval, wilson
from tasks.evaluation.logs import Log
from tasks.evaluation.mcnemar import mcnemar
from tasks.evaluation.power import detectable_difference, verdict
from tasks.evaluation.samples import pass_at_k

DRAWS = 9_999
"""Random sign flips behind a p-value where problems were sampled several times."""


@dataclass(frozen=True)
class Accuracy:
    """One model: shares in percent, 95 % intervals over problems. ``k``: samples of a problem (the fewest)."""

    model: str
    n: int
    k: int
    accuracy: float
    low: float
    high: float
    pass_at_k: float


@dataclass(frozen=True)
class Pair:
    """Two models on the ``n`` problems that both answered; differences (a less b) and their interval in points.

    ``only_a``, ``only_b``: problems that only one of them solved; with several samples a problem, those on which
    one has the larger share right. ``p``: exact McNemar, two-sided; with samples a sign-flip test on the problems'
    differences, and ``p_mid`` is None. ``p_holm``: adjusted over all pairs of the call. ``detectable``: the
    smallest true difference that the test would have found with power .8, None with samples or where none is.
    """

    a: str
    b: str
    n: int
    only_a: int
    only_b: int
    difference: float
    low: float
    high: float
    p: float
    p_mid: float | None
    p_holm: float
    verdict: str
    detectable: float | None


@dataclass(frozen=True)
class Compared:
    """What logs say in pairs; ``margin`` in points. ``notes``: what was left out or chosen, a sentence each;
    ``warnings``: what to know before trusting a number."""

    models: tuple[Accuracy, ...]
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]
    margin: float
    warnings: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain values: ``models``, ``pairs``, ``notes``, ``margin``, ``warnings``."""
        return asdict(self)

    @property
    def model_frame(self) -> pl.DataFrame:
        """A row a model, as `tasks.core.frames.LOG_MODELS`."""
        return pl.DataFrame([asdict(one) for one in self.models], schema=LOG_MODELS)

    @property
    def pair_frame(self) -> pl.DataFrame:
        """A row a pair, as `tasks.core.frames.LOG_PAIRS`."""
        return pl.DataFrame([asdict(one) for one in self.pairs], schema=LOG_PAIRS)


def compare_logs(logs: Sequence[Log], margin: float = 2.0, seed: int = 0) -> Compared:
    """Every pair of ``logs`` on their common problems; equal means within ``margin`` points by the 95 % interval.

    Raises `InputError` for fewer than two models, two of one name, two without a common problem or whose common ids
    are mostly other problems, and a margin that is not above 0 and below 100.

    Examples
    --------
    >>> import polars as pl
    >>> answers = lambda right: pl.DataFrame({"problem_id": list("abcd"), "sample": [0] * 4, "correct": right})
    >>> one, two = Log("one", "", answers([True] * 4)), Log("two", "", answers([True, False, True, False]))
    >>> pair = compare_logs([one, two]).pairs[0]
    >>> pair.only_a, pair.only_b, pair.difference, pair.p
    (2, 0, 50.0, 0.5)
    """
    if not 0 < margin < 100:
        raise InputError(f"--margin {margin:g}: points of accuracy, above 0 and below 100")
    if len(logs) < 2:
        raise InputError(f"{len(logs)} model: give the logs of at least two (a study's items.parquet has several)")
    names = [log.model for log in logs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two logs are called {twice[0]}: give each a name, NAME=FILE")
    shares = {log.model: _shares(log) for log in logs}
    rows, notes, warnings = [], [*_sources(logs)], [*_measures(logs)]
    for one, other in combinations(logs, 2):
        a, b = one.model, other.model
        both = shares[a].join(shares[b], on="problem_id", maintain_order="left")
        if both.is_empty():
            ids = ", ".join(str(shares[one]["problem_id"][0]) for one in (a, b))
            raise InputError(
                f"{a} and {b} have no problem in common (ids such as {ids}): give logs of one benchmark by one tool"
            )
        if left := shares[a].height + shares[b].height - 2 * both.height:
            notes.append(f"{a} and {b}: {both.height} problems in common, {left} answered by only one of them")
        if unlike := _unlike(one, other, both["problem_id"].to_list()):
            warnings.append(
                f"{a} and {b}: {len(unlike)} ids are other problems in one than in the other (such as {unlike[0]}), "
                "and were left out: were both asked the same version of the benchmark?"
            )
            both = both.filter(~pl.col("problem_id").is_in(unlike))
        rows.append(_pair(a, b, both["share"].to_numpy(), both["share_right"].to_numpy(), seed, _single(both)))
    adjusted = holm([row["p"] for row in rows])
    pairs = [_judged(row, float(p), len(rows), margin) for row, p in zip(rows, adjusted, strict=True)]
    return Compared(tuple(_accuracy(log, seed) for log in logs), tuple(pairs), tuple(notes), margin, tuple(warnings))


def _sources(logs: Sequence[Log]) -> Iterator[str]:
    """By what each log was read, models of one measure in one sentence; then the logs' own notes."""
    read: dict[str, list[str]] = {}
    for log in logs:
        read.setdefault(f"{log.tool}{f', {log.measure}' if log.measure else ''}", []).append(log.model)
    yield from (f"{', '.join(models)}: {measure}" for measure, models in read.items())
    yield from (f"{log.model}: {note}" for log in logs for note in log.notes)


def _measures(logs: Sequence[Log]) -> Iterator[str]:
    """A warning where logs of one tool were read by several measures: a difference may be theirs."""
    for tool in dict.fromkeys(log.tool for log in logs):
        own = {log.measure: log.model for log in reversed(logs) if log.tool == tool}
        if len(own) > 1:
            named = "; ".join(f"{model} by {measure}" for measure, model in own.items())
            yield (
                f"Not every log was read by the same measure ({named}): a difference may be the measure's. Choose one "
                "for all with --metric or --filter."
            )


def _unlike(one: Log, other: Log, ids: Sequence[str]) -> list[str]:
    """The common ids that are other problems in one log than in the other, as far as their words are known."""
    if one.tool != other.tool:  # which write the same problem differently
        return []
    known = [key for key in ids if key in one.asked and key in other.asked]
    unlike = [key for key in known if one.asked[key] != other.asked[key]]
    if 2 * len(unlike) > len(known):
        raise InputError(
            f"{one.model} and {other.model}: {len(unlike)} of {len(known)} common ids are other problems (such as "
            f"{unlike[0]}): give logs of one benchmark; where only the wording differs, pair them by --id and --correct"
        )
    return unlike


def _shares(log: Log) -> pl.DataFrame:
    """problem_id, share right, samples."""
    return log.answers.group_by("problem_id", maintain_order=True).agg(share=pl.col("correct").mean(), samples=pl.len())


def _single(both: pl.DataFrame) -> bool:
    return bool((both["samples"] == 1).all() and (both["samples_right"] == 1).all())


def _accuracy(log: Log, seed: int) -> Accuracy:
    shares = log.answers.group_by("problem_id").agg(right=pl.col("correct").sum(), samples=pl.len())
    k, n = int(shares["samples"].min()), shares.height  # type: ignore[arg-type]
    scores = (shares["right"] / shares["samples"]).sort()
    if shares["samples"].max() == 1:
        low, high = wilson(int(shares["right"].sum()), n)
    else:
        interval = share_interval(scores, seed=seed)
        low, high = interval.low, interval.high
    reached = np.mean([pass_at_k(m, c, k) for c, m in shares.select("right", "samples").iter_rows()])
    return Accuracy(log.model, n, k, *(100 * float(x) for x in (scores.mean(), low, high, reached)))  # type: ignore[arg-type]


def _pair(a: str, b: str, x: NDArray[np.float64], y: NDArray[np.float64], seed: int, single: bool) -> dict[str, Any]:
    """All of a pair that does not depend on the others, shares not yet in points."""
    n, only_a, only_b = len(x), int((x > y).sum()), int((y > x).sum())
    found = {"a": a, "b": b, "n": n, "only_a": only_a, "only_b": only_b, "difference": float((x - y).mean())}
    if single:
        test, (low, high) = mcnemar(only_a, only_b), paired_interval(only_a, only_b, n)
        return found | {"low": low, "high": high, "p": test.p_value, "p_mid": test.p_mid, "single": True}
    interval = paired_bootstrap(x, y, seed=seed)
    p = _sign_flips(x - y, seed)
    return found | {"low": interval.low, "high": interval.high, "p": p, "p_mid": None, "single": False}


def _sign_flips(differences: NDArray[np.float64], seed: int) -> float:
    """Two-sided p of a mean difference of 0: the share of `DRAWS` random sign flips that are as far from 0, one added
    above and below (Phipson and Smyth 2010)."""
    told = differences[differences != 0]
    if not told.size:
        return 1.0
    random, reached = np.random.default_rng(seed), 0
    limit = abs(told.sum()) * (1 - 1e-12)
    for draws in np.array_split(np.arange(DRAWS), 10):
        signs = random.choice((-1.0, 1.0), size=(len(draws), told.size))
        reached += int((np.abs(signs @ told) >= limit).sum())
    return (reached + 1) / (DRAWS + 1)


def _judged(row: dict[str, Any], p_holm: float, pairs: int, margin: float) -> Pair:
    n, single = row["n"], row.pop("single")
    detectable = detectable_difference(n, (row["only_a"] + row["only_b"]) / n, alpha=LEVEL / pairs) if single else None
    points = {name: 100 * row[name] for name in ("difference", "low", "high")}
    return Pair(
        **row | points,
        p_holm=p_holm,
        verdict=verdict(p_holm, row["low"], row["high"], effect=margin / 100),
        detectable=None if detectable is None else 100 * detectable,
    )
