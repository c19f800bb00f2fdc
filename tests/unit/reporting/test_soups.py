"""Whether updates add, on the page: the table, the sentence, and nothing where nobody asked."""

from __future__ import annotations

import math
from dataclasses import replace

import polars as pl
import pytest

from tasks.core.frames import SOUPS
from tasks.reporting.findings.sentences import WHY
from tasks.reporting.metrics import SOUPED
from tasks.reporting.render.document import build_document
from tasks.reporting.tables.soups import by_cosine, soups_finding, soups_tables
from tasks.reporting.views.read import NEEDED
from tasks.reporting.views.study import Study

# Soup -> weight, change, predicted, half the interval of what is between them (points of accuracy).
CHANGES = {
    "sft+dpo": (1.0, -5.0, -5.5, 1.0),
    "mean(sft+dft)": (0.5, -1.0, -4.0, 1.5),
    "sft+rft": (1.0, -9.0, -8.0, 2.5),
}


def make_soups() -> pl.DataFrame:
    """KL is .4 and .5 predicted, .1 either way; .2 forgotten; on hard problems ten points less of each accuracy."""
    rows = []
    for name, (weight, change, predicted, half) in CHANGES.items():
        runs = name.removeprefix("mean(").removesuffix(")").split("+")
        for benchmark, less in (("heldout", 0.0), ("hard", 0.1)):
            found, told, wide = change / 100 - less, predicted / 100 - less, half / 100
            ends = (found - told - wide, found - told + wide)
            rows.append((name, runs, weight, "accuracy", benchmark, 400, 0.5, found, found - 0.02, found + 0.02, told,
                         found - told, *ends))  # fmt: skip
        rows.append((name, runs, weight, "own_kl", None, 60, 0.4, 0.4, 0.3, 0.5, 0.5, -0.1, -0.2, 0.0))
        rows.append((name, runs, weight, "forgetting", None, 400, 0.7, 0.2, 0.1, 0.3, None, None, None, None))
    return pl.DataFrame(rows, schema=SOUPS, orient="row")


@pytest.fixture
def told(study: Study) -> Study:
    return replace(study, soups=make_soups())


def test_the_table_has_the_change_beside_what_is_predicted(told: Study) -> None:
    (table,) = soups_tables(told)
    assert [row[0].text for row in table.rows] == list(CHANGES)
    first = [[cell.text, *cell.subs] for cell in table.rows[0]]
    assert first[2:5] == [["-5.0", "[-7.00, -3.00]"], ["-5.5"], ["+0.5", "[-0.50, +1.50]"]]
    assert first[5:8] == [["0.400", "[0.300, 0.500]"], ["0.500"], ["-0.100", "[-0.200, 0]"]]
    assert first[9] == ["0.200", "[0.100, 0.300]"]
    assert first[1] == ["-0.021"]  # as the made-up study has it
    assert "n = 400" in table.note


def test_the_divergence_by_the_cosine(told: Study) -> None:
    """sft .36 and rft .42, at the cosine of .958: (.36 + .42 + 2 x .958 x sqrt(.36 x .42)) for the sum, a quarter of
    it for the mean, and with a run that was not measured nothing."""
    expected = 0.36 + 0.42 + 2 * 0.958 * math.sqrt(0.36 * 0.42)
    assert by_cosine(told, ["sft", "rft"], 1.0) == pytest.approx(expected)
    assert by_cosine(told, ["sft", "rft"], 0.5) == pytest.approx(expected / 4)
    assert by_cosine(told, ["sft", "nobody"], 1.0) is None


def test_the_sentence_says_what_the_interval_lets_say(told: Study) -> None:
    """Between -.5 and +1.5 points: within 2; +1.5 to +4.5: apart; -3.5 to +1.5: either."""
    said = soups_finding(told)
    assert "sft+dpo -5.0, predicted -5.5 (apart +0.5 [-0.50, +1.50]: adds within 2 points)" in said
    assert "mean(sft+dft) -1.0, predicted -4.0 (apart +3.0 [+1.50, +4.50]: does not add)" in said
    assert "(apart -1.0 [-3.50, +1.50]: cannot be told)" in said


def test_it_stands_under_why_and_nowhere_where_nobody_asked(study: Study, told: Study) -> None:
    section = next(one for one in build_document(told).sections if one.title == WHY)
    assert "soups" in [table.key for table in section.tables]
    assert soups_finding(told) in section.said
    assert (soups_tables(study), soups_finding(study)) == ([], "")
    assert "soups.parquet" not in NEEDED
    assert {metric.name for metric in SOUPED} <= set(make_soups()["measure"])


def test_what_was_not_measured_is_said(told: Study) -> None:
    """Without divergences and with accuracies that are the prediction everywhere."""
    only = told.soups.filter(measure="accuracy").with_columns(apart_low=None, apart_high=None)
    (table,) = soups_tables(replace(told, soups=only.cast(SOUPS), retention=told.retention.clear()))
    assert [cell.text for cell in table.rows[0][5:]] == ["not measured"] * 5
    assert "no interval: cannot be told" in soups_finding(replace(told, soups=only.cast(SOUPS)))
