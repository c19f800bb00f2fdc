"""Hidden states, logit lens and divergences: what the tables and sentences say is what the frames say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import polars as pl

from tasks.core.frames import CKA, DIVERGENCE, LENS
from tasks.core.results import RunInfo
from tasks.reporting.charts.curves import cka_picture
from tasks.reporting.findings.sentences import cka_finding, divergence_finding
from tasks.reporting.formats import significant
from tasks.reporting.render.document import build_document
from tasks.reporting.render.html import render_html
from tasks.reporting.tables.functions import (
    MOST_RUNS,
    cka_table,
    depths,
    divergence_matrix,
    functions_table,
)
from tasks.reporting.tables.views import Cell
from tasks.reporting.views.similarity import Place, lowest_pair, similarity_of
from tasks.reporting.views.study import Study

EQUAL = "debiased HSIC with itself is 0: all rows are equally far apart"


def with_cka(study: Study) -> Study:
    """Two layers, by hand: none at layer 0; NaN is no value either."""
    rows: list[tuple[object, ...]] = [
        ("base", "sft", 1, "last", "debiased", 50, 0.75, None),
        ("base", "sft", 1, "last", "biased", 50, 0.8, None),
        ("base", "sft", 2, "last", "debiased", 50, 0.875, None),
        ("base", "sft", 2, "last", "biased", 50, 0.9, None),
        ("sft", "dft", 1, "last", "debiased", 50, 0.5, None),
        ("sft", "dft", 2, "last", "debiased", 50, float("nan"), "not finite"),
        ("sft", "sft-order1", 1, "last", "debiased", 50, 0.25, None),
        ("base", "sft", 1, "mean", "debiased", 50, 0.1, None),
    ]
    rows += [("base", "sft", 0, "last", kind, 50, None, EQUAL) for kind in ("debiased", "biased")]
    return replace(study, cka=pl.DataFrame(rows, schema=CKA, orient="row"))


def test_cka_is_symmetric_and_a_missing_value_has_its_reason(study: Study) -> None:
    found = similarity_of(with_cka(study).cka)
    assert found is not None
    assert (found.pooling, found.others, found.layers, found.rows) == ("last", ("mean",), (0, 1, 2), 50)
    assert found.value("sft", "base", 1) == found.value("base", "sft", 1) == 0.75
    assert found.value("sft", "dft", 2) is None
    assert found.reason("dft", "sft", 2) == "not finite"
    assert found.reason("base", "sft", 1) is None
    assert found.lowest("dft", "sft") == Place(0.5, 1)
    assert found.reasons() == {"not finite": [2], EQUAL: [0]}


def test_the_lowest_pair_is_no_noise_floor(study: Study) -> None:
    tables = with_cka(study)
    found = similarity_of(tables.cka)
    assert found is not None
    assert lowest_pair(found, tables.geometry) == ("sft", "dft", Place(0.5, 1))
    assert cka_finding(tables) == (
        "Hidden states at the prompts' last token (debiased CKA, 50 rows): lowest between sft and dft, 0.500 at layer "
        "1; between runs of one method it is never below 0.250 (sft and sft-order1, layer 1)."
    )
    alone = replace(tables, cka=tables.cka.filter(pl.col("run_b") != "sft-order1"))
    assert cka_finding(alone).endswith("; no noise floor was measured for it.")


def test_the_table_has_both_estimators_and_says_why_values_are_missing(study: Study) -> None:
    tables = with_cka(study)
    summary = cka_table(tables)
    rows = {row[0].text: row[1:] for row in summary.rows}
    assert rows["sft"] == (
        *(Cell("0.7500", ("at layer 1", "biased 0.8000")), Cell("0.8750", ("biased 0.9000",)), Cell("2 of 3")),
        *(Cell("itself"), Cell("itself"), Cell("-")),
    )
    assert rows["dft"][3:] == (
        *(Cell("0.5000", ("at layer 1", "biased not measured")), Cell("undefined"), Cell("1 of 3")),
    )
    assert rows["dft"][0] == Cell("not measured")
    assert "No value at layer 2: not finite. No value at layer 0: debiased HSIC with itself is 0" in summary.note
    assert "50 rows; mean in cka.parquet" in summary.note


def test_the_profile_is_against_the_base_and_the_reference(study: Study) -> None:
    picture = cka_picture(study)
    assert picture is not None
    assert [view["title"] for view in picture.spec["concat"]] == ["Against base", "Against sft"]
    for text in ("Against base", "Against sft", "sft-order1 (floor: data order)"):
        assert text in picture.svg
    against = [{(row["x"], row["y"]) for row in view["data"]["values"]} for view in picture.spec["concat"]]
    frame = study.cka.filter(estimator="debiased", pooling="last")
    for other, points in zip(("base", "sft"), against, strict=True):
        near = frame.filter((pl.col("run_a") == other) | (pl.col("run_b") == other))
        near = near.filter(pl.col("run_a") != "base") if other == "sft" else near  # the base is no run of that panel
        assert points == set(near.select("layer", "value").iter_rows())
    gap = cka_picture(with_cka(study))
    assert gap is not None
    (drawn, _) = (view["data"]["values"] for view in gap.spec["concat"])
    assert [(row["x"], row["y"]) for row in drawn] == [(0, None), (1, 0.75), (2, 0.875)]  # a gap, not a zero
    assert "200 rows" in picture.note
    assert cka_picture(replace(study, cka=study.cka.clear())) is None


def test_divergence_has_a_direction(study: Study) -> None:
    kl = [("base", "sft", 0.5), ("sft", "base", 0.25), ("sft", "sft-order1", 0.01), ("base", "dpo", 2e-6)]
    rows = [(a, b, 60, 900, value, value / 2, 2 * value) for a, b, value in kl]
    lens = [("sft", None, "depth", 900, 2.5), ("sft", 3, "cross_entropy", 900, 1.0), ("sft", 4, "agreement", 900, 1.0)]
    tables = replace(
        study,
        divergence=pl.DataFrame(rows, schema=DIVERGENCE, orient="row"),
        lens=pl.DataFrame(lens, schema=LENS, orient="row"),
    )
    table = functions_table(tables)
    assert tuple(table.header) == (
        *("Run", "Logit-lens depth, of 4 layers", "Deeper than sft, layers"),
        *("KL(base || run), nats/token", "KL(run || base), nats/token"),
        *("KL(sft || run), nats/token", "KL(run || sft), nats/token"),
    )
    found = {row[0].text: row for row in table.rows}
    assert [cell.text for cell in found["sft"][1:]] == ["2.50", "-", "0.500", "0.250", "0", "0"]
    assert found["sft"][3].subs == ("[0.250, 1.00]",)
    assert [cell.text for cell in found["dpo"][1:4]] == ["not measured", "not measured", "2.00×10⁻⁶"]
    assert found["sft-order1"][0].subs == ("noise floor: data order",)
    assert found["sft-order1"][5] == Cell("0.0100", ("[0.00500, 0.0200]",))
    assert {i: row.mark for i, row in enumerate(table.rows) if row.mark} == {0: "base", 7: "floor"}
    assert "Over the 900 tokens of the reference solutions of 60 problems" in table.note
    matrix = divergence_matrix(tables)
    assert matrix is not None
    cells = {(row[0].text, name): cell for row in matrix.rows for name, cell in zip(matrix.header, row, strict=True)}
    assert (cells["base", "sft"].text, cells["sft", "base"].text) == ("0.500", "0.250")
    assert cells["sft", "sft-order1"].subs == ("[0.00500, 0.0200]", "noise floor: data order")
    assert divergence_finding(tables) == (
        "Output distributions, KL(base || run) in nats a token of the reference solutions, nearest first: dpo "
        "2.00×10⁻⁶ and sft 0.500; runs of one method are at most 0.0100 apart, KL(sft || sft-order1)."
    )


def test_a_matrix_of_many_runs_keeps_base_reference_and_floor(build_study: Callable[..., Study]) -> None:
    runs = [RunInfo("base", "base", 0, 0, 0.0), *(RunInfo(f"m{i}", f"m{i}", 0, 0, 1e-3) for i in range(25))]
    runs += [RunInfo("sft", "sft", 0, 0, 1e-3), RunInfo("sft-order1", "sft", 0, 1, 1e-3)]
    tables = build_study(runs=runs)
    matrix = divergence_matrix(tables)
    assert matrix is not None
    assert len(matrix.rows) == len(matrix.header) - 1 == MOST_RUNS
    assert {"base", "sft", "sft-order1"} <= set(matrix.header)
    assert matrix.note.startswith("12 of 28 models; divergence.parquet has all pairs.")
    assert "and 19 more" in divergence_finding(tables)  # 27 runs, 8 named
    assert len(render_html(build_document(tables)).encode()) < 4_000_000  # 0.9 MB of it the charts' code


def test_depth_is_that_of_the_whole_model(study: Study) -> None:
    assert depths(study.lens) == {info.run: 2 + i / 8 for i, info in enumerate(study.runs)}


def test_nothing_measured_is_an_empty_table_with_a_word(study: Study) -> None:
    tables = replace(study, cka=study.cka.clear(), lens=study.lens.clear(), divergence=study.divergence.clear())
    assert cka_table(tables).rows == ()
    assert functions_table(tables).rows == ()
    assert divergence_matrix(tables) is None
    assert (cka_finding(tables), divergence_finding(tables)) == ("", "")
    only_lens = replace(tables, lens=study.lens)
    assert functions_table(only_lens).rows[0][1:4] == (
        *(Cell("2.00"), Cell("-0.12", ("same method 0.75",)), Cell("0", ("itself",))),
    )


def test_three_significant_digits() -> None:
    values = (0.0, 0.012345, 1.5, 123.4, 99.96, 4.5e-6, 2e-4, None, float("nan"))
    assert [significant(value) for value in values] == [
        *("0", "0.0123", "1.50", "123", "100", "4.50×10⁻⁶", "0.000200", "not measured", "not measured"),
    ]
