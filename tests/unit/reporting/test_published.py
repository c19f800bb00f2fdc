from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import polars as pl
import pytest

from tasks.reporting.charts.heat_map import cosine_picture
from tasks.reporting.publish.figure_files import figure_files, table_csv, table_files
from tasks.reporting.publish.published import data_uri, run_metrics, table_rows, top
from tasks.reporting.render.document import build_document
from tasks.reporting.tables.views import Cell, Cells, Table
from tasks.reporting.views.study import Study

SVG = "{http://www.w3.org/2000/svg}"


def test_metrics_are_the_frames_and_only_what_was_measured(study: Study) -> None:
    metrics = {info.run: values for info, values in run_metrics(study).items()}
    hard = study.accuracy.filter(run="dpo", benchmark="hard")["accuracy"].item()
    assert (metrics["dpo"]["accuracy_hard"], metrics["dpo"]["cosine_to_sft"]) == (hard, -0.021)
    test = study.mcnemar.filter(benchmark="heldout", run_a="base", run_b="dpo")["difference"].item()
    assert metrics["dpo"]["accuracy_minus_base"] == pytest.approx(-test, abs=1e-15)
    assert "accuracy_minus_base" not in metrics["base"]
    assert metrics["dpo"]["lens_depth"] == 2.75
    # .1 (1 - .5) 1.1 1e-4: from the base, the earlier run, to dpo
    assert metrics["dpo"]["kl_from_base"] == pytest.approx(5.5e-6, rel=1e-12)
    assert "update_norm" not in metrics["base"]
    assert "kl_from_base" not in metrics["base"]


def test_a_benchmarks_name_becomes_one_that_mlflow_takes(study: Study) -> None:
    odd = replace(study, accuracy=study.accuracy.with_columns(pl.col("benchmark").replace("hard", "../my <set>")))
    assert "accuracy____my__set_" in next(iter(run_metrics(odd).values()))


def test_tables_for_prefect_are_those_of_the_page(study: Study, tmp_path: Path) -> None:
    holes = replace(study, pair_metrics=study.pair_metrics.filter(pl.col("run_b") != "dpo"))
    files = table_files(build_document(holes, lambda *_: []))
    for name in ("tables/headline.csv", "tables/mcnemar.csv", "tables/claims.csv", "tables/cosines.csv"):
        (tmp_path / Path(name).name).write_bytes(files[name])
    json.dumps(table_rows(tmp_path / "claims.csv"), allow_nan=False)
    rows = {row["Run"]: row for row in table_rows(tmp_path / "headline.csv")}
    assert next(iter(rows)) == "base"
    assert "differs" in rows["sft"]["Against base, points (detail)"].split("; ")
    assert rows["dpo"]["Cosine to sft"] == "not measured"
    assert rows["base"]["Against base, points"] == "–"  # a "-" is a bullet of Prefect's Markdown
    matrix = {row["Run"]: row for row in table_rows(tmp_path / "cosines.csv")}
    assert (matrix["sft"]["rft"], matrix["sft"]["dpo"]) == ("0.958", "not measured")
    base = holes.mcnemar.filter(benchmark="heldout", run_a="base", run_b="sft").row(0, named=True)
    (row,) = [
        row for row in table_rows(tmp_path / "mcnemar.csv")
        if (row["Benchmark"], row["A"], row["B"]) == ("Held-out", "base", "sft")
    ]  # fmt: skip
    assert (row["Only A right"], row["Only B right"]) == (str(base["only_a"]), str(base["only_b"]))


def test_a_cell_of_a_csv_is_no_formula() -> None:
    table = Table("t", "T", ("Run", "x"), [Cells(Cell("=1+1", ("a", "b")), "-1.5"), Cells('q"', "-x")], "")
    assert table_csv(table) == 'Run,Run (detail),x\r\n\'=1+1,a; b,-1.5\r\n"q""",,\'-x\r\n'


def test_a_picture_travels_in_its_url(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    assert data_uri(tmp_path / "a.png") == "data:image/png;base64,iVBORw=="


def test_a_long_report_is_cut_between_sections() -> None:
    text = "# a\n\nfirst\n\n## b\n\nsecond\n\n## c\n\nthird\n"
    assert top(text, 100) == text
    assert top(text, 35) == "# a\n\nfirst\n\n## b\n\nsecond\n\nThe rest is in report.md, beside report.html.\n"
    assert top("x" * 50, 10) == "x" * 10 + "\n\nThe rest is in report.md, beside report.html.\n"


def test_figures_stand_alone(study: Study) -> None:
    picture = cosine_picture(study)
    assert picture is not None
    files = figure_files([picture])
    assert sorted(files) == ["figures/cosines.png", "figures/cosines.svg"]
    svg = files["figures/cosines.svg"].decode()
    assert "currentColor" not in svg
    assert "var(" not in svg
    width, height = struct.unpack(">II", files["figures/cosines.png"][16:24])  # of the header chunk (PNG, 11.2.2)
    root = ElementTree.fromstring(svg)
    assert (width, height) == (round(2 * float(root.attrib["width"])), round(2 * float(root.attrib["height"])))
    assert {"offline_grpo", ".765"} <= {"".join(one.itertext()).strip() for one in root.iter(f"{SVG}text")}
