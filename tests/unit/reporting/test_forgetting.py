"""Forgetting over the divergence from the base, in many studies: by hand, against scipy, and with too few."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import linregress

from tasks.reporting.many.document import many_document
from tasks.reporting.many.forgetting import forgetting_finding, forgetting_table, regress
from tasks.reporting.many.joined import Many, join
from tasks.reporting.many.studies import read_studies
from tests.definitions.regression import slow_line
from tests.lab.many_studies import made, runs_of, write


def many(folder: Path, studies: int, slope: float = 2.0) -> Many:
    """In study i SFT and its replicate are i + 1 nats from the base, RFT i + 2, DPO 0; forgotten is the slope times it,
    and 1."""
    written = []
    for i in range(studies):
        norms = {"sft": 2.0 + i, "rft": 3.0 + i, "dpo": 0.5 + i, f"sft-order{i + 1}": 1.5 + i}
        tables = made(f"s{i}", runs_of(i), norms=norms, settings={"seed": i})
        kl = pl.col("method").replace_strict(
            {"base": 0, "sft": i + 1, "rft": i + 2, "dpo": 0}, return_dtype=pl.Float64()
        )
        kept = tables.retention.with_columns(own_kl=kl).with_columns(forgetting=slope * pl.col("own_kl") + 1)
        written.append((f"s{i}", write(folder / f"s{i}", replace(tables, retention=kept))))
    return join(read_studies(written))


def test_a_line_by_hand() -> None:
    """Through (0, 1), (1, 1), (2, 4), (3, 4), (4, 5): x off its mean of 2 and y off its mean of 3 have the products
    4 + 2 + 0 + 1 + 4 = 11 over 10 squares; r = 11 / sqrt(10 x 14)."""
    line = regress([0, 1, 2, 3, 4], [1, 1, 4, 4, 5], range(5))
    assert line is not None
    assert (line.slope.value, line.r.value) == pytest.approx((1.1, 11 / np.sqrt(140)))
    assert (line.slope.n, line.cells) == (5, 5)


@pytest.mark.parametrize("seed", range(3))
def test_random_points_against_scipy_and_the_slow_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.exponential(size=40)
    y = 0.7 * x + rng.normal(0, 0.3, 40)
    line = regress(x.tolist(), y.tolist(), np.repeat(range(8), 5).tolist())
    assert line is not None
    theirs = linregress(x, y)
    assert (line.slope.value, line.r.value) == pytest.approx((theirs.slope, theirs.rvalue))
    assert (line.slope.value, line.r.value) == pytest.approx(slow_line(x.tolist(), y.tolist()))
    assert line.slope.low is not None
    assert line.slope.high is not None
    assert line.slope.low < theirs.slope < line.slope.high


def test_copies_of_a_cell_s_points_do_not_narrow_the_interval() -> None:
    """Whole cells are drawn: a cell's points five times over are no five cells."""
    x, y = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [0.3, 0.8, 2.4, 2.7, 4.4, 4.9]
    one, five = regress(x, y, range(6)), regress(x * 5, y * 5, [*range(6)] * 5)
    assert one is not None
    assert five is not None
    assert (five.slope.low, five.slope.high) == pytest.approx((one.slope.low, one.slope.high))


def test_fewer_than_five_cells_or_what_does_not_vary_is_no_regression() -> None:
    assert regress([0, 1, 2, 3], [0, 1, 2, 3], range(4)) is None
    assert regress([1] * 5, [0, 1, 2, 3, 4], range(5)) is None
    assert regress([0, 1, 2, 3, 4], [1] * 5, range(5)) is None


def test_five_studies_have_a_row_for_all_methods_and_each(tmp_path: Path) -> None:
    table = forgetting_table(joined := many(tmp_path, 5))
    rows = {row[0].text: [cell.plain for cell in row[1:]] for row in table.rows}
    assert rows["all methods"] == ["20", "5", "2.000 ([2.000, 2.000])", "1.000 ([1.000, 1.000])"]
    assert rows["sft"][:3] == ["10", "5", "2.000 ([2.000, 2.000])"]
    assert rows["dpo"][2] == "not measured (one of the two does not vary)"
    assert "slope 2.000 [2.000, 2.000], r 1.000 [1.000, 1.000], of 20 trainings in 5 studies" in forgetting_finding(
        joined
    )
    section = next(one for one in many_document(joined).sections if one.title == "Accuracy")
    assert "forgetting" in [one.key for one in section.tables]
    assert forgetting_finding(joined) in section.said


def test_four_studies_say_what_is_missing_and_none_that_nothing_was_measured(tmp_path: Path) -> None:
    joined = many(tmp_path, 4)
    assert forgetting_table(joined).rows[0][3].plain == "not measured (needs 5 studies)"
    assert forgetting_finding(joined) == ""
    bare = replace(joined, studies=tuple(replace(one, retention=one.retention.clear()) for one in joined.studies))
    assert forgetting_table(bare).rows == ()
    assert "not measured" in forgetting_table(bare).note
