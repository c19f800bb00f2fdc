from __future__ import annotations

import io
from dataclasses import replace

import polars as pl
import pytest
from rich.console import Console

from tasks.core.secrets import without_password
from tasks.reporting.charts.curves import layer_profiles
from tasks.reporting.claims.paper import CLAIMS
from tasks.reporting.findings.headline import findings
from tasks.reporting.render.document import build_document
from tasks.reporting.render.html import render_html
from tasks.reporting.render.terminal import headline_renderable
from tasks.reporting.tables.geometry import spectrum_table
from tasks.reporting.tables.record import training_table, versions_table
from tasks.reporting.views.study import Study


def unmoved(study: Study, run: str) -> Study:
    """The study with the update of ``run`` zero: no measure of its pairs has a value, its norm is 0."""
    of_run = (pl.col("run_a") == run) | (pl.col("run_b") == run)
    empty = {name: pl.when(of_run).then(None).otherwise(name).alias(name) for name in ("value", "low", "high")}
    # What of the other lies outside a zero update is all of it.
    whole = pl.when(pl.col("run_a") == run).then(pl.lit("orthogonal_fraction_reverse")).otherwise(
        pl.lit("orthogonal_fraction")
    )  # fmt: skip
    pairs = study.pair_metrics.with_columns(**empty)
    pairs = pairs.with_columns(value=pl.when(of_run & (pl.col("metric") == whole)).then(1.0).otherwise("value"))
    norm = pl.when((pl.col("run") == run) & (pl.col("metric") == "norm")).then(0.0).otherwise("value")
    return replace(study, pair_metrics=pairs, spectra=study.spectra.with_columns(value=norm))


def test_an_update_of_zero_is_named_at_the_top_and_in_the_terminal(study: Study) -> None:
    tables = unmoved(study, "dpo")
    view = tables.geometry
    assert view.zero == {"dpo"}
    warning = "The update of 1 run is zero: dpo has no direction to compare, and it is still the base."
    assert warning in findings(tables).warnings
    assert not any("is zero" in one for one in findings(study).warnings)
    console = Console(file=io.StringIO(), width=100)
    console.print(headline_renderable(tables))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    (row,) = (line for line in text.splitlines() if line.startswith("dpo  "))
    assert row.split()[-2:] == ["zero", "0.000"]
    assert "n/m" not in row


def test_the_terminal_counts_the_claims_and_cuts_no_name(study: Study) -> None:
    long = "offline_grpo-with-a-long-name-of-its-own"
    renamed = replace(
        study,
        runs=[replace(info, run=long) if info.run == "dpo" else info for info in study.runs],
        accuracy=study.accuracy.with_columns(pl.col("run").replace("dpo", long)),
    )
    console = Console(file=io.StringIO(), width=80)
    console.print(headline_renderable(renamed))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "claims of the paper (arXiv 2606.23740)" in " ".join(text.split())
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("offline_grpo-"))
    pieces = [line[: line.find(" ")] if " " in line else line for line in lines[first : first + 4]]
    assert "".join(pieces[:2]) == long
    assert "…" not in text


def test_orthogonal_fraction_by_layer_is_that_of_the_run_outside_the_reference(study: Study) -> None:
    profile = layer_profiles(study, "orthogonal_fraction")["dft"]
    frame = study.pair_metrics.filter(
        pl.col("module") == "*", pl.col("layer").is_not_null(), pl.col("projection").is_null(), run_a="sft", run_b="dft"
    )
    assert profile.values == frame.filter(metric="orthogonal_fraction_reverse").sort("layer")["value"].to_list()
    assert profile.values != frame.filter(metric="orthogonal_fraction").sort("layer")["value"].to_list()


@pytest.mark.parametrize(
    ("uri", "href"),
    [
        ("http://lab:5000/", "http://lab:5000/#/runs/f00d"),
        ("sqlite:///mlflow.db", ""),
        ("javascript:alert(1)", ""),
    ],
)
def test_runs_of_a_server_are_links(study: Study, uri: str, href: str) -> None:
    tables = replace(study, record={**study.record, "mlflow": {"uri": uri, "study": "f00d"}})
    (cell,) = (row[1] for row in versions_table(tables).rows if row[0].text == "mlflow study")
    assert (cell.text, cell.href) == ("f00d", href)
    page = render_html(build_document(tables, lambda *_: []))
    assert (f'<a href="{href}">f00d</a>' in page) == bool(href)
    assert 'href="javascript' not in page


def test_the_training_table_says_how_often_examples_were_read(study: Study) -> None:
    read = {"sft": {"examples": 4096, "epochs": 1.25}, "dpo": {"examples": 914, "epochs": 5.6018}}
    table = training_table(replace(study, record={**study.record, "training": read}))
    places = [table.header.index(name) for name in ("Examples", "Epochs")]
    cells = {row[0].text: [row[place].text for place in places] for row in table.rows}
    assert (cells["sft"], cells["dpo"]) == (["4096", "1.25"], ["914", "5.60"])
    assert cells["rft"] == ["not measured"] * 2  # a report of an earlier version has none
    assert {len(row) for row in table.rows} == {len(table.header)}


def test_sizes_at_another_learning_rate_are_marked(study: Study) -> None:
    """DPO's 1e-4 is .1 times SFT's 1e-3; at one rate for all there is nothing to say."""
    note = spectrum_table(study).note
    assert note.endswith(
        "Trained at another learning rate than sft, so that their sizes measure that as well: dpo (0.100 times)."
    )
    equal = replace(study, runs=[replace(info, lr=1e-3) for info in study.runs])
    columns = {name: pl.when(pl.col(name) == 1e-4).then(1e-3).otherwise(name).alias(name) for name in ("lr_a", "lr_b")}
    equal = replace(equal, pair_metrics=study.pair_metrics.with_columns(**columns))
    assert "learning rate" not in spectrum_table(equal).note
    (claim,) = (claim for claim in CLAIMS if claim.id == "norm-dpo")
    assert "(at a tenth of the learning rate)" in claim.statement


def test_a_password_stays_out_of_the_record() -> None:
    assert without_password("postgresql://me:secret@db:5432/mlflow") == "postgresql://db:5432/mlflow"
    assert without_password("postgresql://me:se/cr?e#t@db/mlflow") == "postgresql://db/mlflow"
    assert without_password("sqlite:////tmp/a@b/mlflow.db") == "sqlite:////tmp/a@b/mlflow.db"
