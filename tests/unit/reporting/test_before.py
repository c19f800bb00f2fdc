"""Gradients before training on the page: the table beside the trained cosines, and whether the orders agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import kendalltau, spearmanr

from tasks.core.frames import GRADIENTS, ON_POLICY, checked
from tasks.reporting.claims.before_readings import exact_p, kendall, order_before_training
from tasks.reporting.claims.claim import ClaimResult
from tasks.reporting.claims.measured import Measured, Missing
from tasks.reporting.claims.paper import claims_table
from tasks.reporting.claims.rules import FAILS, HOLDS, NO_POWER, ordered
from tasks.reporting.formats import NOT_MEASURED
from tasks.reporting.render.document import build_document
from tasks.reporting.tables.before import before_tables
from tasks.reporting.tables.record import rollout_tables
from tasks.reporting.views.before import before_of
from tasks.reporting.views.read import NEEDED, _read
from tasks.reporting.views.study import Study

# As the made-up study's trained cosines are ordered: rift .981, rft .958, offline_grpo .804, dft .765, dpo -.021.
AS_TRAINED = {"rft": 0.97, "dft": 0.67, "rift": 0.99, "offline_grpo": 0.9, "dpo": 0.03}
HALF = {"sft": 0.98, "rft": 0.97, "dft": 0.95, "rift": 0.98, "offline_grpo": 0.9, "dpo": 0.6}
LAYERS = 4


def make_gradients(to_sft: Mapping[str, float] = AS_TRAINED, width: float = 0.005) -> pl.DataFrame:
    """Cosines to SFT as given, of two others their product; layer n a hundredth of n below."""
    rows = []
    for a, b in combinations(["sft", *to_sft], 2):
        overall = to_sft.get(a, 1.0) * to_sft[b]
        for layer in (None, *range(LAYERS)):
            value = overall - 0.01 * (layer or 0)
            true = 1.01 * value
            noise = (HALF[a], HALF[b], true, true - width, true + width)
            place = (a, b, 512, 100 if b == "dpo" else 512, "*", layer, None)
            rows.append((*place, value + 0.001, value, value - width, value + width, *noise))
    return checked(pl.DataFrame(rows, schema=GRADIENTS, orient="row"), GRADIENTS, "gradients")


@pytest.fixture
def told(study: Study) -> Study:
    return replace(study, gradients=make_gradients())


def test_the_table_has_the_gradient_its_noise_and_the_trained_cosine(told: Study) -> None:
    overall, layers = before_tables(told)
    assert len(overall.rows) == len(layers.rows) == 15
    row = next(row for row in overall.rows if [cell.text for cell in row[:2]] == ["sft", "dpo"])
    # .03 with .005 either way; halves of SFT and DPO; 1.01 times; the weights' own .031; trained -.021.
    assert [cell.text for cell in row[2:]] == ["0.030", "0.980, 0.600", "0.030", "0.031", "-0.021"]
    assert row[2].subs == ("[0.025, 0.035]",)
    assert "dpo 100" in overall.note
    last = next(row for row in layers.rows if [cell.text for cell in row[:2]] == ["sft", "dpo"])[-1]
    cosine = told.pair_metrics.filter(run_a="sft", run_b="dpo", module="*", layer=3, metric="cosine")["value"][0]
    assert (last.text, last.subs) == ("0.000", (f"trained {cosine:.3f}",))


def test_a_pair_reads_either_way_round() -> None:
    before = before_of(make_gradients())
    assert before is not None
    there, back = before.of("sft", "dpo"), before.of("dpo", "sft")
    assert there is not None
    assert back is not None
    assert (there.value, there.own, there.other) == (back.value, back.other, back.own) == (0.03, 0.98, 0.6)
    assert before.of("sft", "kto") is None
    assert before.layers == (0, 1, 2, 3)


def test_nothing_measured_is_no_table_and_no_verdict(study: Study) -> None:
    assert before_tables(study) == []
    (part,) = order_before_training(study)
    assert isinstance(part, Missing)
    two = replace(study, gradients=make_gradients({"rft": 0.9, "dft": 0.5}))
    assert verdict(two).verdict == NOT_MEASURED
    assert "2 methods" in verdict(two).detail
    noise = make_gradients().with_columns(pl.when(method_b="dpo").then(None).otherwise("corrected").alias("corrected"))
    assert "raise gradients.n" in verdict(replace(study, gradients=noise)).detail


def verdict(tables: Study) -> ClaimResult:
    return next(one for one in claims_table(tables) if one.claim.id == "open-gradient-order")


def test_the_order_is_there_where_both_rank_the_methods_alike(told: Study) -> None:
    found = verdict(told)
    assert found.verdict == HOLDS
    assert found.measured is not None
    assert (found.measured.value, found.measured.n, found.measured.p) == (1.0, 5, pytest.approx(1 / 120))
    assert "exact p = 0.008 of 5 methods, Spearman 1.00" in found.measured.detail
    assert "rft 0.980 then 0.958" in found.measured.detail


def test_it_is_not_where_they_are_turned_round_and_not_known_between(study: Study) -> None:
    turned = {name: 1 - value for name, value in AS_TRAINED.items()}
    assert verdict(replace(study, gradients=make_gradients(turned))).verdict == FAILS
    # The right order, and cosines that the rows do not tell apart.
    wide = verdict(replace(study, gradients=make_gradients(width=2.0)))
    assert wide.verdict == NO_POWER
    # Two pairs changed round: p = .117.
    mixed = AS_TRAINED | {"rft": 0.9, "offline_grpo": 0.97, "dft": 0.02, "dpo": 0.03}
    found = verdict(replace(study, gradients=make_gradients(mixed)))
    assert (found.verdict, found.measured.value if found.measured else None) == (NO_POWER, pytest.approx(0.6))
    assert "replicates=all" in found.needs


@pytest.mark.parametrize(
    ("low", "high", "p", "said"),
    [(0.1, 1.0, 0.05, HOLDS), (0.1, 1.0, 0.051, NO_POWER), (0.0, 1.0, 0.01, NO_POWER), (-1.0, 0.0, 0.9, FAILS)],
)
def test_the_rule_takes_the_interval_and_the_permutations(low: float, high: float, p: float, said: str) -> None:
    assert ordered().judge(Measured("tau", 0.5, low, high, None, 5, "methods", p=p)).verdict == said


def test_rank_correlations_are_scipys_and_every_permutations(told: Study) -> None:
    rng = np.random.default_rng(3)
    first, last = rng.standard_normal((2, 6))
    assert float(kendall(first, last)) == pytest.approx(kendalltau(first, last).statistic)
    for n in (3, 4, 5):
        taus = [float(kendall(np.arange(n), np.array(order))) for order in permutations(range(n))]
        for tau in set(taus):
            assert exact_p(n, tau) == pytest.approx(np.mean([one >= tau - 1e-9 for one in taus]))
    (part,) = order_before_training(told)
    assert isinstance(part, Measured)
    trained = [told.geometry.cosine("sft", name) for name in AS_TRAINED]
    assert part.value == pytest.approx(kendalltau(list(AS_TRAINED.values()), trained).statistic)
    assert f"Spearman {spearmanr(list(AS_TRAINED.values()), trained).statistic:.2f}" in part.detail


def test_the_page_has_both_tables_and_a_folder_from_before_them_is_read(told: Study, tmp_path: Path) -> None:
    tables = {table.key: table for table in build_document(told, lambda *_: []).tables}
    assert len(tables["before"].rows) == len(tables["before-layers"].rows) == 15
    assert "gradients.parquet" not in NEEDED
    assert _read(tmp_path / "gradients.parquet", GRADIENTS).is_empty()


def test_how_likely_the_rollouts_are_stands_with_them(study: Study) -> None:
    values = [("all", 3, 70, 0.5, 0.4, 0.6, 0.05, 0.0, 0.125), ("wrong", 1, 9, 1.5, None, None, 0.25, None, None)]
    frame = pl.DataFrame(values, schema=ON_POLICY, orient="row")
    shown, _ = rollout_tables(replace(study, on_policy=frame))
    assert [[cell.plain for cell in row] for row in shown[-1].rows] == [
        ["All", "3", "70", "0.500 ([0.400, 0.600])", "5.0 ([0.0, 12.5])"],
        ["Wrong", "1", "9", "1.500", "25.0"],
    ]
    assert "on-policy" not in {table.key for table in rollout_tables(study)[0]}
