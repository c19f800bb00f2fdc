"""What two adapters of strangers look like to each other: copies, one training repeated, one task, or nothing.

Two questions are asked of what was measured. Did they begin from one lora_A? Then their updates lie in one input
subspace, and what tells trainings apart is their cosine, which is high for one training and low for two tasks. Did they
not? Then the cosine of one task with itself is low too (each update is the gradient projected on other random input
directions), and what comes back are the output directions: the first left singular vectors.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from tasks.core.frames import RELATIONS, checked
from tasks.core.results import RunInfo
from tasks.geometry.delta import Source
from tasks.geometry.tables.build import geometry

COPY = "the same update"
ONE_TRAINING = "one training, two orders"
OTHER_TRAINING = "one initialisation, another training"
SAME_TASK = "one task, two initialisations"
UNRELATED = "unrelated"
UNKNOWN = "cannot say"

RELATED = (COPY, ONE_TRAINING, SAME_TASK)

EQUAL = 1e-9
"""Distance from 1 up to which a cosine or a ratio of norms is 1: double precision leaves less."""


@dataclass(frozen=True)
class Thresholds:
    """Of each question: below ``low`` no, from ``high`` on yes, between them "cannot say".

    Chosen on half of the tasks of `tests/benchmarks/relations.py` and rounded outwards: low where the highest of the
    other kind was, high where the lowest of its own was. docs/compare.md has the error rates on the other half.
    """

    start: tuple[float, float] = (0.2, 0.5)
    """Did both begin from one lora_A? By the cosine of the two: .732 and more if so, else at most .069."""
    space: tuple[float, float] = (0.4, 0.65)
    """The same by the overlap of the input spaces, where lora_A are of two ranks or in two bases: .681, .177 (.35 for
    two adapters in the open)."""
    training: tuple[float, float] = (0.4, 0.81)
    """From one start: one training? By the cosine of the updates: .812 and more if so, else at most .425."""
    task: tuple[float, float] = (0.3, 0.5)
    """From two starts: one task? By |u1 u1'|: .483 and more if so, else at most .333."""
    opposite: float = -0.2
    """Cosine below which two updates undo each other, which is none of the relations."""


THRESHOLDS = Thresholds()


@dataclass(frozen=True)
class Evidence:
    """What was measured of a pair, over all modules that both have; None where it is not defined."""

    a: str
    b: str
    modules: int
    cosine: float | None
    """Of the two updates."""
    ratio: float | None
    """|a| / |b|"""
    start: float | None
    """Cosine of the two lora_A; None also for two ranks."""
    input: float | None
    """Share of the input subspaces that agrees, whichever basis lora_A gives them: phi_right at the full rank."""
    input_null: float | None
    """What random subspaces give."""
    left: float | None
    """|u1 u1'| of the first left singular vectors, mean over modules."""
    left_null: float | None
    sd: float | None
    """Standard deviation of the cosine among random directions."""
    shared_sd: float | None
    """The same given the input subspaces as they are."""


@dataclass(frozen=True)
class Relation:
    """``kind``: what the pair looks like, one of the six above; ``reason``: the evidence in a sentence."""

    kind: str
    reason: str


def evidence_of(pair_metrics: pl.DataFrame) -> list[Evidence]:
    """The evidence of every pair in a PAIR_METRICS_FRAME, in its order."""
    whole = pl.col("module") == "*", pl.col("layer").is_null(), pl.col("projection").is_null()
    modules = {
        (a, b): n
        for a, b, n in pair_metrics.filter(pl.col("module") != "*")
        .group_by("run_a", "run_b")
        .agg(pl.col("module").n_unique())
        .iter_rows()
    }
    columns = ["run_a", "run_b", "metric", "k", "value", "null", "null_sd", "shared_null_sd"]
    rows: dict[tuple[str, str], dict[str, tuple[float | None, ...]]] = {}
    for a, b, metric, _, *values in (
        pair_metrics.filter(*whole).select(columns).sort("k", maintain_order=True).iter_rows()
    ):
        own = rows.setdefault((a, b), {})
        if values[0] is not None or metric not in own:  # of several k the largest that has a value
            own[metric] = tuple(values)
    pairs = pair_metrics.select("run_a", "run_b").unique(maintain_order=True).iter_rows()
    return [_evidence(pair, modules.get(pair, 0), rows.get(pair, {})) for pair in pairs]


def _evidence(pair: tuple[str, str], modules: int, rows: Mapping[str, tuple[float | None, ...]]) -> Evidence:
    nothing = (None, None, None, None)
    cosine, ratio, start, inputs, left = (
        rows.get(name, nothing) for name in ("cosine", "norm_ratio", "lora_a_cosine", "phi_right", "u1_overlap")
    )
    return Evidence(
        *pair, modules, cosine=cosine[0], ratio=ratio[0], start=start[0], input=inputs[0], input_null=inputs[1],
        left=left[0], left_null=left[1], sd=cosine[2], shared_sd=cosine[3],
    )  # fmt: skip


def relation(found: Evidence, thresholds: Thresholds = THRESHOLDS) -> Relation:
    """What a pair looks like, and why; it does not depend on which of the two comes first.

    Examples
    --------
    Two adapters that share lora_A and little else:

    >>> found = Evidence("a", "b", 36, cosine=0.12, ratio=1.1, start=0.978, input=0.97, input_null=0.01, left=0.2,
    ...                  left_null=0.02, sd=0.001, shared_sd=0.01)
    >>> relation(found)
    Relation(kind='one initialisation, another training', reason='lora_A 0.978, cosine 0.120')
    """
    cosine, left = found.cosine, found.left
    if cosine is None or found.ratio is None or left is None:
        return Relation(UNKNOWN, "an update is zero in the modules that both have: it has no direction")
    if _copied(found):
        scaled = abs(found.ratio - 1) > EQUAL
        return Relation(COPY, f"scaled by {found.ratio:.4g}, else equal" if scaled else "equal to the last digit")
    shared = _one_start(found, thresholds)
    parts = [f"lora_A {found.start:.3f}"] if found.start is not None else []
    if found.input is not None and (found.start is None or (shared and found.start < thresholds.start[1])):
        parts.append(f"input spaces {found.input:.3f}")
    reason = ", ".join([*parts, f"cosine {cosine:.3f}", *([] if shared else [f"|u1 u1'| {left:.3f}"])])
    if cosine < thresholds.opposite:
        return Relation(UNKNOWN, f"{reason}: they point opposite ways")
    if shared is None:
        return Relation(UNKNOWN, f"{reason}: it is open whether they began from one lora_A")
    if shared:
        return Relation(_chosen(cosine, thresholds.training, ONE_TRAINING, OTHER_TRAINING), reason)
    return Relation(_chosen(left, thresholds.task, SAME_TASK, UNRELATED), reason)


def _copied(found: Evidence) -> bool:
    return found.cosine is not None and abs(found.cosine - 1) < EQUAL


def relate(a: Source, b: Source) -> Relation:
    """`relation` of two adapters that are open. Raises `InputError` where they share no module or have other shapes.

    Examples
    --------
    >>> import numpy as np
    >>> from tasks.geometry.delta import Factors, LoraDelta
    >>> start = np.eye(2, 6)
    >>> a = LoraDelta({"layers.0.q_proj": Factors(np.array([[2.0, 0], [0, 1], [0, 0]]), start, 1.0)})
    >>> b = LoraDelta({"layers.0.q_proj": Factors(np.array([[0.0, 1], [0, 0], [0, 2]]), start, 1.0)})
    >>> relate(a, b)
    Relation(kind='one initialisation, another training', reason='lora_A 1.000, cosine 0.000')
    """
    infos = [RunInfo(name, name, None, None, None) for name in ("a", "b")]
    return relation(evidence_of(geometry([a, b], infos, (1,), workers=1).pair_metrics)[0])


def _one_start(found: Evidence, thresholds: Thresholds) -> bool | None:
    """Whether both began from one lora_A; None where it is open."""
    asked = [(found.start, thresholds.start), (found.input, thresholds.space)]
    known = [(value, low, high) for value, (low, high) in asked if value is not None]
    if any(value >= high for value, _, high in known):
        return True
    return False if known and all(value < low for value, low, _ in known) else None


def _chosen(value: float, limits: tuple[float, float], yes: str, no: str) -> str:
    low, high = limits
    return yes if value >= high else no if value < low else UNKNOWN


def calibrated(repeats: Iterable[Evidence], thresholds: Thresholds = THRESHOLDS) -> Thresholds:
    """``thresholds``, raised to what is known here: nothing that is farther than a training from its repeat is called
    one. Noisy repeats do not lower them.

    ``repeats``: pairs that are one method trained twice, in two orders or from two initialisations.
    """
    repeats = list(repeats)
    shared = [_one_start(found, thresholds) for found in repeats]
    cosines = [one.cosine for one, start in zip(repeats, shared, strict=True) if start and one.cosine is not None]
    lefts = [one.left for one, start in zip(repeats, shared, strict=True) if start is False and one.left is not None]
    return replace(
        thresholds,
        training=_raised(thresholds.training, cosines),
        task=_raised(thresholds.task, lefts),
    )


def _raised(limits: tuple[float, float], floors: Sequence[float]) -> tuple[float, float]:
    low, high = limits
    return low, max(high, min(floors, default=high))


def relations_frame(pair_metrics: pl.DataFrame, whole: Collection[str] = ()) -> pl.DataFrame:
    """RELATIONS of every pair in a PAIR_METRICS_FRAME.

    Two runs of one method and one learning rate are a training and its repeat, which calibrate the others. ``whole``:
    runs without factors of their own, such as full fine-tunes, whose input directions tell of no initialisation.
    """
    found = evidence_of(pair_metrics)
    one_method = (pl.col("method_a") == pl.col("method_b")) & pl.col("lr_a").eq_missing(pl.col("lr_b"))
    repeats = set(pair_metrics.filter(one_method).select("run_a", "run_b").unique().iter_rows())
    thresholds = calibrated([one for one in found if (one.a, one.b) in repeats and not _copied(one)])
    rows = []
    for one in found:
        if {one.a, one.b} & set(whole):
            one = replace(one, input=None)
        said = relation(one, thresholds)
        rows.append(
            {
                "run_a": one.a, "run_b": one.b, "relation": said.kind, "related": said.kind in RELATED,
                "reason": said.reason, "modules": one.modules, "cosine": one.cosine, "norm_ratio": one.ratio,
                "lora_a_cosine": one.start, "input_overlap": one.input, "u1_overlap": one.left,
            }
        )  # fmt: skip
    return checked(pl.DataFrame(rows, schema=RELATIONS), RELATIONS, "relations")
