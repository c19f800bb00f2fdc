"""Like with like: values across data orders against a method with itself, worked out from explicit vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import polars as pl
import pytest
from scipy.stats import ttest_1samp

from tasks.core.chance import mean_overlap
from tasks.core.results import RunInfo
from tasks.reporting.claims.measured import Measured, Noise
from tasks.reporting.claims.output import sensitivity_table
from tasks.reporting.claims.pair_readings import leading, order, pairs
from tasks.reporting.claims.paper import verdicts
from tasks.reporting.claims.rules import TOLERANCES, Tolerances, apart, at_floor, near
from tasks.reporting.tables.geometry import across_tables
from tasks.reporting.views.across import difference, likeness, t_interval
from tasks.reporting.views.floors import INITIALISATION, ORDER
from tasks.reporting.views.pairs import AT_FLOOR, BELOW_FLOOR, COMMON_NOISE
from tasks.reporting.views.similarity import similarity_of
from tasks.reporting.views.study import Study
from tests.unit.reporting.test_claim_readings import one


def runs(method: str, orders: int = 3, seed: int = 0) -> list[RunInfo]:
    return [RunInfo(method if i == 0 else f"{method}-order{i}", method, seed, i, 1e-3) for i in range(orders)]


def of(vectors: dict[str, np.ndarray]) -> tuple[Callable[[str, str], float], Callable[[str, str], float]]:
    """Cosine and norm ratio of explicit update vectors."""

    def cosine(a: str, b: str) -> float:
        return float(vectors[a] @ vectors[b] / np.linalg.norm(vectors[a]) / np.linalg.norm(vectors[b]))

    return cosine, lambda a, b: float(np.linalg.norm(vectors[a]) / np.linalg.norm(vectors[b]))


@pytest.fixture(scope="module")
def vectors() -> dict[str, np.ndarray]:
    """Three orders of two methods: a direction each, a noise that the methods of one order share, and a little more."""
    rng = np.random.default_rng(3)
    common, apart = rng.standard_normal(400), rng.standard_normal(400)
    found = {}
    for i in range(3):
        noise = 0.35 * rng.standard_normal(400)
        for method, own in (("sft", common), ("rft", common + 0.2 * apart)):
            name = method if i == 0 else f"{method}-order{i}"
            found[name] = (1 + 0.1 * i) * (own + noise + 0.02 * rng.standard_normal(400))
    return found


def test_one_order_is_not_held_against_two(vectors: dict[str, np.ndarray]) -> None:
    a, b = runs("sft"), runs("rft")
    cosine, _ = of(vectors)
    found = likeness(a, b, cosine)
    assert found.one_order == {i: cosine(a[i].run, b[i].run) for i in range(3)}
    assert sorted(found.across) == sorted(cosine(a[i].run, b[j].run) for i, j in product(range(3), repeat=2) if i != j)
    assert found.shifted == tuple(cosine(a[i].run, b[(i + 1) % 3].run) for i in range(3))
    assert found.within[0] == tuple(cosine(x.run, y.run) for x, y in combinations(a, 2))
    # The methods differ, yet in one order they are nearer to each other than either is to itself in two.
    assert min(found.one_order.values()) > max(found.floor)
    assert max(found.across) < min(found.floor)


def test_the_difference_and_the_cosine_without_noise(vectors: dict[str, np.ndarray]) -> None:
    a, b = runs("sft"), runs("rft")
    found = difference(a, b, *of(vectors))
    assert found is not None
    d = [vectors[y.run] - vectors[x.run] for x, y in zip(a, b, strict=True)]
    expected = [float(x @ y / np.linalg.norm(x) / np.linalg.norm(y)) for x, y in combinations(d, 2)]
    assert found.repeats == pytest.approx(expected, rel=1e-9)
    shares = [np.linalg.norm(one) / np.linalg.norm(vectors[x.run]) for one, x in zip(d, a, strict=True)]
    assert found.share == pytest.approx(np.mean(shares), rel=1e-9)

    def mean(one: list[RunInfo], other: list[RunInfo]) -> float:
        return float(
            np.mean([vectors[one[i].run] @ vectors[other[j].run] for i in range(3) for j in range(3) if i != j])
        )

    assert found.deattenuated == pytest.approx(mean(a, b) / (mean(a, a) * mean(b, b)) ** 0.5, rel=1e-9)
    assert difference(a[:1], b, *of(vectors)) is None
    # Whatever the scale of one method.
    scaled = vectors | {run.run: 5 * vectors[run.run] for run in b}
    again = difference(a, b, *of(scaled))
    assert again is not None
    assert again.deattenuated == pytest.approx(found.deattenuated, rel=1e-9)


def test_a_method_beside_itself_has_no_difference(vectors: dict[str, np.ndarray]) -> None:
    """Two names of one training: the value without noise is 1, the difference 0 and without direction."""
    replicate = {
        **vectors,
        **{name.replace("sft", "copy"): vectors[name] for name in vectors if name.startswith("sft")},
    }
    found = difference(runs("sft"), runs("copy"), *of(replicate))
    assert found is not None
    assert (found.deattenuated, found.share) == (pytest.approx(1.0, rel=1e-9), pytest.approx(0.0, abs=1e-7))


def test_orders_that_nobody_knows_count_as_the_least_alike() -> None:
    a = [RunInfo("a", "a", None, None, None), RunInfo("again", "a", None, None, None)]
    b = [RunInfo("b", "b", None, None, None)]
    values = {("a", "b"): 0.98, ("again", "b"): 0.95, ("a", "again"): 0.97}
    found = likeness(a, b, lambda x, y: values.get((x, y)))
    # b may share the order of either, not of both: .98 may be common noise.
    assert (found.one_order, found.across, found.floor) == ({}, (0.95,), (0.97,))
    assert likeness(a, b, lambda x, y: values.get((x, y)), distance=True).across == (0.98,)
    assert likeness(a[:1], b, lambda x, y: values.get((x, y))).across == ()


def test_students_interval_is_scipys() -> None:
    values = [0.71, 0.74, 0.79]
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    assert t_interval(values) == pytest.approx((expected.low, expected.high), rel=1e-12)
    low, high = t_interval(values, 0.7) or (0.0, 0.0)
    assert (low + high) / 2 == pytest.approx(0.7, rel=1e-12)
    assert high - low == pytest.approx(expected.high - expected.low, rel=1e-12)
    assert t_interval([0.7]) is None


SIX = [
    RunInfo("base", "base", 0, 0, 0.0),
    *runs("sft"),
    *runs("rft"),
    *runs("dft"),
    RunInfo("rift", "rift", 0, 0, 1e-3),
]


def with_cosines(study: Study, cosines: dict[tuple[str, str], float]) -> Study:
    """The made-up study with these cosines and an interval of .3 to either side, which only orders can narrow."""
    value = pl.col("value")
    for (a, b), found in cosines.items():
        own = (pl.col("run_a") == a) & (pl.col("run_b") == b) & (pl.col("metric") == "cosine")
        value = (
            pl.when(own & (pl.col("module") == "*") & pl.col("layer").is_null() & pl.col("projection").is_null())
            .then(found)
            .otherwise(value)
        )
    frame = study.pair_metrics.with_columns(value=value)
    wide = pl.col("metric") == "cosine"
    bounds = [pl.when(wide & pl.col(n).is_not_null()).then(value + by).otherwise(pl.col(n)).alias(n)
              for n, by in (("low", -0.3), ("high", 0.3))]  # fmt: skip
    return replace(study, pair_metrics=frame.with_columns(bounds))


@pytest.fixture(scope="module")
def repeated(build_study: Callable[..., Study]) -> Study:
    """Three orders of sft, rft and dft: a referee's table in small, every same-order value above every floor."""
    cosines: dict[tuple[str, str], float] = {}
    names = {method: [run.run for run in runs(method)] for method in ("sft", "rft", "dft")}
    for method, floor in (("sft", 0.973), ("rft", 0.976), ("dft", 0.95)):
        for a, b in combinations(names[method], 2):
            cosines[a, b] = floor
    for i, j in product(range(3), repeat=2):
        cosines[names["sft"][i], names["rft"][j]] = 0.983 if i == j else 0.9640 + 0.0005 * (i - j)
        cosines[names["sft"][i], names["dft"][j]] = 0.58 + 0.01 * i if i == j else 0.56
        cosines[names["rft"][i], names["dft"][j]] = 0.56 if i == j else 0.54
    return with_cosines(build_study(runs=SIX), cosines)


def test_the_cross_order_pair_is_judged_by_the_floor(repeated: Study) -> None:
    """On yesterday's rule rft was "at the noise floor": .983 in one order against .973 in two."""
    view = repeated.geometry
    info = {run.run: run for run in view.runs}
    assert view.standing(info["rft"], info["sft"]) == BELOW_FLOOR
    assert view.standing(info["rft-order1"], info["sft"]) == BELOW_FLOOR  # judged as the methods are
    level = with_cosines(repeated, {("sft", "rft-order1"): 0.999, ("sft-order1", "rft"): 0.999})
    assert level.geometry.standing(info["rft"], info["sft"]) == AT_FLOOR
    # Neither rift nor dpo was trained twice: nothing judges the two, whatever other methods' floor is.
    assert view.standing(info["rift"], RunInfo("x", "x", 0, 0, 1e-3)) == ""


def test_a_pair_without_replicates_shares_its_noise(study: Study) -> None:
    view = study.geometry
    info = {run.run: run for run in view.runs}
    assert view.standing(info["rft"], info["rift"]) == COMMON_NOISE
    assert view.standing(info["rft"], info["sft"]) == BELOW_FLOOR  # .958 x .975 against .975


def test_replicates_give_the_interval_that_three_layers_cannot(repeated: Study) -> None:
    found = one(list(pairs("cosine", ("sft", "dft"))(repeated)))
    assert (found.value, found.n, found.of) == (pytest.approx(0.59), 3, "data orders")
    assert (found.low, found.high) == pytest.approx(t_interval([0.58, 0.59, 0.60]), rel=1e-9)
    assert found.crossed is not None
    assert (found.crossed.value, found.crossed.n) == (pytest.approx(0.56), 6)
    assert apart(*TOLERANCES.around(0.572)).judge(found).verdict == "holds"
    near_sft = one(list(pairs("cosine", ("sft", "rft"))(repeated)))
    assert near(0.877).judge(near_sft).verdict == "holds"
    assert at_floor().judge(near_sft).verdict == "does not hold"
    # Gaps are paired order by order: (.983 - .58, .983 - .59, .983 - .60).
    gap = one(list(order("cosine", [("sft", "rft")], [("sft", "dft")])(repeated)))
    assert (gap.low, gap.high) == pytest.approx(t_interval([0.403, 0.393, 0.383]), rel=1e-9)


def measured(value: float, low: float, high: float, floor: tuple[float, float] | None, **more: object) -> Measured:
    noise = Noise("data order", *floor, 3) if floor else None
    return Measured("a ~ b", value, low, high, noise, 3, "data orders", **more)  # type: ignore[arg-type]


def test_a_low_floor_confirms_nothing() -> None:
    """R4: "cosine about .977" must not hold at .717 because the floor is .567, nor at .95 in one order."""
    low = measured(0.717, 0.70, 0.73, (0.567, 0.60))
    assert near(0.877).judge(low).verdict == "no power"
    assert near(0.877).judge(measured(0.95, 0.94, 0.96, (0.567, 0.60))).verdict == "no power"
    assert near(0.877).judge(measured(0.95, 0.94, 0.96, (0.96, 0.97))).verdict == "holds"
    assert near(0.877).judge(measured(0.717, 0.70, 0.73, (0.96, 0.97))).verdict == "does not hold"
    assert near(46.0, distance=True).judge(measured(40, 39, 41, (50.0, 60.0))).verdict == "no power"


def test_what_random_subspaces_satisfy_is_no_claim() -> None:
    """R5: an angle of at most 64.6 degrees that random subspaces have as well."""
    found = measured(59.0, 58.0, 60.0, (20.0, 21.0), beats_chance=False)
    assert near(64.6, distance=True).judge(found).verdict == "no power"
    assert (
        near(64.6, distance=True).judge(measured(40.0, 39.0, 41.0, (20.0, 21.0), beats_chance=True)).verdict == "holds"
    )


def test_the_leading_dimensions_are_the_papers_share_of_the_rank() -> None:
    assert leading([1, 5, 10, 32], 32) == 10  # the paper's
    assert leading([1, 2, 3, 5, 8], 8) == 3  # 2.5 of 8
    assert leading([1, 2, 8], 8) == 2
    assert leading([1, 8], 8) is None  # the first direction and the whole update are other claims
    assert leading([2, 3], 4) == 2  # never one


def test_the_mean_overlap_is_that_of_random_directions() -> None:
    rng = np.random.default_rng(0)
    for n in (2, 8, 64):
        u = rng.standard_normal((200_000, n))
        assert mean_overlap(n) == pytest.approx(np.abs(u[:, 0] / np.linalg.norm(u, axis=1)).mean(), rel=0.01)


def test_tolerances_halve_and_double() -> None:
    assert TOLERANCES.changed("likeness", 0.5) == Tolerances(likeness=0.05)
    assert TOLERANCES.changed("factor", 0.5).factor == pytest.approx(2**0.5)
    assert TOLERANCES.changed("factor", 2.0).factor == 4.0
    assert TOLERANCES.around(0.97, 0.98) == (pytest.approx(0.87), pytest.approx(1.08))


def test_the_table_shows_what_is_judged_beside_what_is_not(repeated: Study) -> None:
    cosines, others = across_tables(repeated.geometry, None)
    rows = {(row[0].text, row[1].text): row for row in cosines.rows}
    assert set(rows) == {
        ("sft", "rft"),
        ("sft", "dft"),
        ("rft", "dft"),
        ("sft", "rift"),
        ("rft", "rift"),
        ("dft", "rift"),
    }
    row = rows["sft", "rft"]
    assert [cell.text for cell in row[2:6]] == ["0.983", "0.964", "0.975", "farther than noise"]
    assert row[3].subs == ("0.963 to 0.965", "n = 6")
    assert rows["sft", "rift"][6].text == "needs replicates of both"
    assert all(len(row) == len(others.header) for row in others.rows)
    # CKA stands beside them: of sft and rft at the last of five layers 1 - .2 (1 - .958), as the made-up frame has it.
    _, states = across_tables(repeated.geometry, similarity_of(repeated.cka))
    shown = [row for row in states.rows if row[2].text == "CKA at the last layer (4)"]
    assert len(shown) == len(cosines.rows)
    assert all(cell.text != "-" for cell in shown[0][3:])
    alone = replace(repeated.geometry, replicate_pairs={ORDER: (), INITIALISATION: ()})
    assert across_tables(alone, None) == []


def test_verdicts_at_half_and_at_twice_a_tolerance(build_study: Callable[..., Study]) -> None:
    """R11: .70 of DFT, +- .0 in three orders, is .128 from the paper's .572: outside .1 and .05, inside .2."""
    study = build_study(runs=SIX)
    cosines = {(a.run, b.run): 0.70 for a in runs("sft") for b in runs("dft")}
    cosines |= {(a.run, b.run): 0.97 for method in ("sft", "dft") for a, b in combinations(runs(method), 2)}
    found = verdicts(with_cosines(study, cosines))
    assert next(one.verdict for one in found.results if one.claim.id == "cosine-sft-dft") == "does not hold"
    likeness_ = next(one for one in found.sensitivity if one.tolerance == "likeness")
    assert (likeness_.size, likeness_.half[0], likeness_.twice[0]) == (0.1, 0.05, 0.2)
    assert "cosine-sft-dft" not in likeness_.half[1]
    assert likeness_.twice[1]["cosine-sft-dft"] == "holds"
    # No other tolerance has a say in it, and the table counts what changes.
    others = [one for one in found.sensitivity if one.tolerance != "likeness"]
    assert all("cosine-sft-dft" not in {**one.half[1], **one.twice[1]} for one in others)
    rows = {row[1].text: row for row in sensitivity_table([likeness_]).rows}
    assert rows["0.1"][3].text == str(len(likeness_.twice[1]))
