from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import polars as pl
import pytest

from tasks.core.results import RunInfo
from tasks.reporting.estimates import Spread
from tasks.reporting.notes import floor_note
from tasks.reporting.publish.numbers import noise_floor
from tasks.reporting.views.floors import INITIALISATION, ORDER, floor_of, kind_of, same_initialisation
from tasks.reporting.views.pairs import (
    AT_START,
    BELOW_FLOOR,
    BELOW_START,
    IS_START,
    NO_FLOOR,
    OTHER_SEED,
    UNKNOWN_START,
    geometry_of,
)
from tasks.reporting.views.study import Study

SFT = RunInfo("a", "sft", 0, 0, 1e-3)
UNKNOWN = RunInfo("a", "sft", None, None, None)


def unknown(name: str, method: str) -> RunInfo:
    return replace(UNKNOWN, run=name, method=method)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"data_seed": 1}, ORDER),
        ({"seed": 1}, INITIALISATION),
        ({"seed": 1, "data_seed": 1}, INITIALISATION),
        ({"data_seed": None}, ORDER),
        ({}, None),  # the same training over again
        ({"data_seed": 1, "lr": 1e-4}, None),
        ({"data_seed": 1, "method": "rft"}, None),
        ({"seed": 1, "method": "rft"}, None),
    ],
)
def test_the_kind_of_a_pair_by_its_seeds(change: dict[str, int], kind: str | None) -> None:
    other = replace(SFT, run="b", **change)
    # The seeds decide where both are known, whatever the factors look like.
    assert kind_of(SFT, other, 0.99) == kind_of(other, SFT, 0.01) == kind


def test_without_seeds_the_factors_decide() -> None:
    other = replace(UNKNOWN, run="b")
    assert kind_of(UNKNOWN, other, 0.51) == ORDER
    assert kind_of(UNKNOWN, other, 0.5) == INITIALISATION
    assert kind_of(UNKNOWN, other, None) is None
    assert kind_of(replace(SFT, lr=None), other, 0.1) == INITIALISATION  # one seed alone tells nothing
    assert same_initialisation(UNKNOWN, other, None) is None


def test_a_floor_is_lowest_mean_and_highest_of_what_was_measured() -> None:
    found = floor_of([0.9, None, 0.5, 0.7])
    assert found is not None
    assert (found.n, found.lowest, found.mean, found.highest) == (3, 0.5, pytest.approx(0.7, rel=1e-15), 0.9)
    assert floor_of([None]) is floor_of([]) is None


INITIALISATIONS = [
    RunInfo("base", "base", 0, 0, 0.0),
    RunInfo("sft", "sft", 0, 0, 1e-3),
    RunInfo("sft-order1", "sft", 0, 1, 1e-3),
    RunInfo("dft", "sft", 1, 0, 1e-3),  # .765 to sft, .765 * .975 = .745875 to sft-order1
    RunInfo("offline_grpo", "grpo", 1, 0, 1e-3),  # .804 to sft
    RunInfo("dpo", "dpo", 1, 0, 1e-3),  # -.021 to sft
    RunInfo("rift", "rift", 0, 0, 1e-3),  # .981 to sft
]
"""Three runs of sft (two initialisations), rift and dpo from the other one; cosines as multiplied out below."""


@pytest.fixture(scope="module")
def seeds(build_study: Callable[..., Study]) -> Study:
    return build_study(runs=INITIALISATIONS)


def test_two_floors_of_every_measure(seeds: Study) -> None:
    view = seeds.geometry
    assert view.replicate_pairs == {
        ORDER: (("sft", "sft-order1"),),
        INITIALISATION: (("sft", "dft"), ("sft-order1", "dft")),
    }
    assert view.floor == 0.975
    assert view.floor_of(ORDER, "cosine") == Spread((0.975,))
    # (.765 + .745875) / 2 = .7554375
    start = view.floor_of(INITIALISATION, "cosine")
    assert start is not None
    assert (start.n, start.lowest, start.mean, start.highest) == (2, 0.745875, 0.7554375, 0.765)
    # arccos .765 = 40.0930 degrees, of which the made-up top-5 angle is .8
    angle = view.floor_of(INITIALISATION, "angle_left", 5)
    assert angle is not None
    assert angle.lowest == pytest.approx(0.8 * 40.0930, abs=1e-4)
    assert view.floor_of(INITIALISATION, "angle_left", 3) is None


def test_each_pair_is_judged_by_the_floor_of_its_kind(seeds: Study) -> None:
    view = seeds.geometry
    info = {run.run: run for run in view.runs}
    standing = {name: view.standing(info[name], info["sft"]) for name in ("dft", "offline_grpo", "dpo", "rift")}
    # .804 is far below the order's .975, but at the initialisation's .746
    assert standing == {"dft": IS_START, "offline_grpo": AT_START, "dpo": BELOW_START, "rift": BELOW_FLOOR}


def test_what_no_floor_judges_is_said_to_be_unjudged(seeds: Study) -> None:
    # Without the second sft there is no floor of the data order.
    view = replace(seeds, runs=[run for run in seeds.runs if run.run != "sft-order1"]).geometry
    info = {run.run: run for run in view.runs}
    assert view.floor is None
    assert view.standing(info["rift"], info["sft"]) == NO_FLOOR
    assert "The noise floor of the data order was not measured" in floor_note(view)
    assert "The initialisation floor is 0.765, the cosine between runs of one method from two" in floor_note(view)
    # Without the sft of another initialisation there is none of that.
    view = replace(seeds, runs=[run for run in seeds.runs if run.run != "dft"]).geometry
    assert view.standing(info["dpo"], info["sft"]) == OTHER_SEED
    assert "The initialisation floor was not measured" in floor_note(view)


def test_an_initialisation_that_nobody_knows_has_no_floor(
    build_comparison: Callable[..., dict[str, pl.DataFrame]],
) -> None:
    runs = [unknown("sft", "sft"), unknown("sft-order1", "sft"), unknown("rift", "rift")]
    frame = build_comparison(runs)["pair_metrics"]
    view = geometry_of(runs, frame, runs[0])
    assert view.replicate_pairs[ORDER] == (("sft", "sft-order1"),)
    # Whose order rift shares nobody knows: of .981 and .956 the lower one counts.
    assert view.standing(runs[2], runs[0]) == BELOW_FLOOR
    of_rift = (pl.col("run_b") == "rift") & (pl.col("metric") == "lora_a_cosine")
    other_rank = frame.with_columns(value=pl.when(of_rift).then(None).otherwise("value"))
    assert geometry_of(runs, other_rank, runs[0]).standing(runs[2], runs[0]) == UNKNOWN_START


def test_floors_in_the_record(seeds: Study) -> None:
    record = noise_floor(seeds.geometry)
    found = {(row["metric"], row["k"]): row for row in record["initialisation"]["measures"]}
    assert found["cosine", None]["lowest"] == 0.745875
    assert (found["phi_left", 8]["n"], found["phi_left", 8]["highest"]) == (2, pytest.approx(0.765**2, rel=1e-12))
    alone = noise_floor(replace(seeds, runs=seeds.runs[:2]).geometry)
    assert (alone["cosine"], alone["order"], alone["initialisation"]) == (None, None, None)
