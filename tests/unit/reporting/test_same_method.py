"""Each difference between methods stands beside that of two runs of one method; numbers by hand."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from tasks.core.frames import LENS, MCNEMAR, SAMPLES
from tasks.core.results import RunInfo
from tasks.reporting.estimates import Spread
from tasks.reporting.findings.sentences import depth_finding
from tasks.reporting.publish.numbers import single_floors
from tasks.reporting.tables.accuracy import accuracy_table, mcnemar_table, samples_table
from tasks.reporting.tables.functions import functions_table
from tasks.reporting.tables.headline import headline_table
from tasks.reporting.tables.views import Cell
from tasks.reporting.views.floors import INITIALISATION, ORDER
from tasks.reporting.views.pairs import Geometry
from tasks.reporting.views.same_method import apart, difference_of, floor_clause
from tasks.reporting.views.study import Study

RUNS = [
    RunInfo("base", "base", 0, 0, 0.0),
    RunInfo("sft", "sft", 0, 0, 1e-3),
    RunInfo("dpo", "dpo", 0, 0, 1e-3),
    RunInfo("sft-order1", "sft", 0, 1, 1e-3),
    RunInfo("sft-order2", "sft", 0, 2, 1e-3),
    RunInfo("sft-init1", "sft", 1, 0, 1e-3),
]
RIGHT = {"base": 50, "sft": 60, "dpo": 55, "sft-order1": 62, "sft-order2": 59, "sft-init1": 66}
DEPTH = {"base": 2.0, "sft": 2.5, "dpo": 3.0, "sft-order1": 2.75, "sft-order2": 2.5, "sft-init1": 2.0}


@pytest.fixture
def replicates(study: Study) -> Study:
    """Four runs of sft: three orders of the data, two initialisations; 100 problems, shares and depths as above."""
    names = list(RIGHT)
    tests = [
        {"benchmark": "heldout", "run_a": a, "run_b": b, "family": "base" if a == "base" else None, "n": 100,
         "only_a": RIGHT[a], "only_b": RIGHT[b], "both": 0, "neither": 0, "difference": (RIGHT[a] - RIGHT[b]) / 100,
         "p_value": 0.5, "p_holm": 1.0, "detectable": 0.1, "verdict": "no power"}
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    ]  # fmt: skip
    # pass@4 of a run is its accuracy and a tenth.
    samples = [(run, "heldout", "pass", 4, 100, 4, n / 100 + 0.1, None, None) for run, n in RIGHT.items()]
    held = study.accuracy.filter(benchmark="heldout", run="base")
    accuracy = pl.concat(
        held.with_columns(run=pl.lit(run), answer_loss=pl.lit(n / 1000)) for run, n in RIGHT.items()
    ).cast(dict(study.accuracy.schema))
    return replace(
        study,
        runs=RUNS,
        accuracy=accuracy,
        mcnemar=pl.DataFrame(tests, schema=MCNEMAR),
        samples=pl.DataFrame(samples, schema=SAMPLES, orient="row"),
        lens=pl.DataFrame([(run, None, "depth", 9, d) for run, d in DEPTH.items()], schema=LENS, orient="row"),
    )


@pytest.fixture
def view(replicates: Study) -> Geometry:
    return replicates.geometry


def told(found: dict[str, Spread]) -> dict[str, tuple[int, float, float]]:
    """Kind of floor -> number of pairs, largest difference, standard deviation of a single run."""
    return {kind: (one.n, one.largest, one.sd_of_one) for kind, one in found.items()}


def test_largest_and_sd_by_hand(view: Geometry) -> None:
    found = apart(view, difference_of(lambda run: float(RIGHT[run])))
    # Orders: 60, 62, 59: differences 2, 1, 3, and (4 + 1 + 9) / 6 = 7/3 is the variance of the three (mean 60 1/3).
    assert told(found)[ORDER] == (3, 3.0, pytest.approx((7 / 3) ** 0.5, rel=1e-12))
    # Another initialisation: 66 against 60, 62, 59: (36 + 16 + 49) / 6.
    assert told(found)[INITIALISATION] == (3, 7.0, pytest.approx((101 / 6) ** 0.5, rel=1e-12))


def test_what_one_run_lacks_does_not_count(view: Geometry) -> None:
    known = {"sft": 1.0, "sft-order1": 3.0, "dpo": 9.0}
    assert told(apart(view, difference_of(known.get))) == {ORDER: (1, 2.0, pytest.approx(2**0.5, rel=1e-12))}
    assert apart(view, difference_of({}.get)) == {}


def test_accuracy_differences_stand_beside_it(replicates: Study, view: Geometry) -> None:
    # sd: sqrt(7/3) = 1.53, sqrt(101/6) = 4.10 points.
    beneath = ("order 3.0", "sd 1.5, 3 pairs", "initialisation 7.0", "sd 4.1, 3 pairs")
    table = mcnemar_table(replicates)
    place = table.header.index("Same method, points")
    assert {row[place] for row in table.rows} == {Cell("7.0", beneath)}
    floors = {(row[1].text, row[2].text): row[2].subs for row in table.rows if row[2].subs}
    assert floors["sft", "sft-order1"] == ("noise floor: data order",)
    assert floors["sft-order2", "sft-init1"] == ("noise floor: initialisation",)
    assert [row.mark for row in table.rows].count("floor") == len(floors) == 6
    headline = {row[0].text: row[4].subs[-1] for row in headline_table(replicates).rows[1:]}
    assert set(headline.values()) == {"same method 7.0"}


def test_sampled_scores_and_losses_have_a_row_of_it(replicates: Study, view: Geometry) -> None:
    beneath = ("order 3.0", "sd 1.5, 3 pairs", "initialisation 7.0", "sd 4.1, 3 pairs")
    sampled = samples_table(replicates)
    assert sampled.rows[-1] == (Cell("Held-out"), Cell("Same method, points"), Cell("7.0", beneath))
    table = accuracy_table(replicates)
    # Losses are a tenth of the shares: .003 and .007 at most.
    last = dict(zip(table.header, table.rows[-1], strict=True))
    assert (last["Accuracy, %"].text, last["Answer loss, nats/token"].text) == ("7.0", "0.0070")
    assert table.rows[-1].mark == sampled.rows[-1].mark == "floor"


def test_depths_stand_beside_it(replicates: Study, view: Geometry) -> None:
    rows = {row[0].text: row for row in functions_table(replicates).rows}
    assert rows["dpo"][2] == Cell("+0.50", ("same method 0.75",))
    assert rows["base"][2] == Cell("-0.50", ("same method 0.75",))
    assert rows["sft"][2] == Cell("-", ("itself",))
    # Orders 2.5, 2.75, 2.5: sd sqrt((.0625 + 0 + .0625) / 6) = .14; the other start 2.0: sqrt(1.0625 / 6) = .42.
    assert depth_finding(replicates) == (
        "Logit-lens depth: from 2.00 (sft-init1) to 3.00 layers (dpo); base 2.00; the same method differs in another "
        "data order by at most 0.25 layers (sd 0.14 layers, 3 pairs) and from another initialisation by at most 0.75 "
        "layers (sd 0.42 layers, 3 pairs)."
    )


def test_one_twin_has_no_sd_and_none_is_said_to_be_none(replicates: Study) -> None:
    one = replace(replicates, runs=RUNS[:4]).geometry
    said = floor_clause(apart(one, difference_of(lambda run: float(RIGHT[run]))), str)
    assert said == "the same method differs in another data order by 2.0"
    alone = replace(replicates, runs=RUNS[:3])
    assert {row[7] for row in mcnemar_table(alone).rows} == {Cell("no noise floor measured")}
    assert depth_finding(alone).endswith("; no noise floor was measured for it.")


def test_the_record_has_the_numbers(replicates: Study, view: Geometry) -> None:
    found = single_floors(replicates)
    assert found["accuracy"]["heldout"][ORDER]["highest"] == pytest.approx(0.03, rel=1e-12)
    assert found["samples"][0]["k"] == 4
    assert found["samples"][0][INITIALISATION]["highest"] == pytest.approx(0.07, rel=1e-12)
    assert found["depth"][INITIALISATION] == {"n": 3, "highest": 0.75, "sd": pytest.approx((1.0625 / 6) ** 0.5)}
    alone = single_floors(replace(replicates, runs=RUNS[:3]))
    assert alone["depth"] == {ORDER: None, INITIALISATION: None}
