"""Every pair's cosines before training, after it, and weighted by inputs: the figure and its sentence."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from tasks.reporting.charts.why import EDGE, MOST_ROWS, why_picture
from tasks.reporting.findings.why import why_finding
from tasks.reporting.views.joined import GRADIENT, TRAINED, WEIGHTED, joined_pairs
from tasks.reporting.views.study import Study
from tests.unit.reporting.test_before import make_gradients


def weighted(study: Study) -> Study:
    """With an activation-weighted cosine of .5 (1 + cosine): every pair half as far from 1."""
    rows = study.pair_metrics.filter(metric="cosine")
    more = rows.with_columns(metric=pl.lit("activation_cosine"), value=0.5 * (1 + pl.col("value")))
    return replace(study, pair_metrics=pl.concat([study.pair_metrics, more]))


@pytest.fixture
def told(study: Study) -> Study:
    return weighted(replace(study, gradients=make_gradients()))


def test_floors_come_first_then_pairs_by_their_trained_cosine(told: Study) -> None:
    first, *pairs = joined_pairs(told)
    assert (first.a.run, first.b.run, first.is_floor, dict(first.floors)) == ("sft", "sft-order1", True, {})
    assert set(first.found) == {TRAINED, WEIGHTED}  # of one method there are no two gradients
    assert len(pairs) == 15
    trained = [pair.value(TRAINED) for pair in pairs]
    assert trained == sorted(trained, reverse=True)  # type: ignore[type-var]
    pair = next(one for one in pairs if (one.a.run, one.b.run) == ("sft", "dpo"))
    assert pair.value(GRADIENT) == pytest.approx(1.01 * 0.03)
    assert pair.value(TRAINED) == told.geometry.cosine("sft", "dpo")
    floor = told.geometry.cosine("sft", "sft-order1")
    assert floor is not None
    assert pair.floors == {TRAINED: floor, WEIGHTED: pytest.approx(0.5 * (1 + floor))}
    other = next(one for one in pairs if (one.a.run, one.b.run) == ("rft", "dft"))
    assert other.floors == {}  # neither was trained in a second order


def test_a_mark_a_cosine_and_a_line_a_floor(told: Study) -> None:
    picture = why_picture(told)
    assert picture is not None
    rows = picture.spec["data"]["values"]
    assert len(rows) == 2 + 3 * 15 == picture.numbers.height
    assert [row["of"] for row in rows[:5]] == [1, 2, 0, 1, 2]  # the floor has no gradient
    assert {row["low"] is not None for row in rows if row["of"] == 0} == {True}
    assert {row["low"] for row in rows if row["of"] == 1} == {None}
    assert sum(row["floor"] is not None for row in rows) == 2 * 5  # trained and weighted of the pairs with sft
    assert picture.svg.startswith("<svg")
    assert picture.table == "before"


def test_what_noise_puts_beyond_one_is_drawn_at_the_edge(told: Study) -> None:
    far = replace(told, gradients=told.gradients.with_columns(corrected=pl.lit(3.0), corrected_high=pl.lit(9.0)))
    picture = why_picture(far)
    assert picture is not None
    assert {(row["value"], row["high"]) for row in picture.spec["data"]["values"] if row["of"] == 0} == {(EDGE, EDGE)}
    assert picture.numbers.filter(of=GRADIENT)["cosine"].unique().to_list() == [3.0]


def test_the_sentence_ranks_pairs_and_names_the_one_that_comes_nearest(told: Study) -> None:
    """Half as far from 1, the farthest pair moves most."""
    most = min(joined_pairs(told), key=lambda pair: pair.value(TRAINED) or 0.0)
    said = why_finding(told)
    assert "rank 15 pairs of methods with a Kendall's tau of " in said
    assert "16 of 16 pairs come nearer, most of all " in said
    value = most.value(TRAINED)
    assert value is not None
    assert said.endswith(f"{most.a.run} and {most.b.run}, from {value:.3f} to {0.5 * (1 + value):.3f}.")


def test_one_kind_of_cosine_is_no_figure_and_two_are(study: Study) -> None:
    assert (joined_pairs(study), why_picture(study), why_finding(study)) == ([], None, "")
    gradients = why_picture(replace(study, gradients=make_gradients()))
    assert gradients is not None
    assert "Diamond" not in gradients.note
    assert gradients.title == "From the first gradient to the trained update"
    alone = why_picture(weighted(study))
    assert alone is not None
    assert ("Open circle" in alone.note, alone.table) == (False, "pairs")
    assert alone.title == "From the trained update to what inputs see"


def test_of_many_pairs_those_with_the_reference_are_drawn(told: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.reporting.charts.why.MOST_ROWS", 6)
    picture = why_picture(told)
    assert picture is not None
    assert len({row["place"] for row in picture.spec["data"]["values"]}) == 6 < MOST_ROWS
    assert "Shown: 6 of 16 pairs, those with sft first" in picture.note
    assert picture.numbers.height == 47
