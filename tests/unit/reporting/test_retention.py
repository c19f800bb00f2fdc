"""What runs forget, on the page: columns of the tables of accuracy, the note, the sentence; where nothing is known."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from tasks.reporting.publish.published import run_metrics
from tasks.reporting.tables.accuracy import accuracy_table
from tasks.reporting.tables.headline import headline_table
from tasks.reporting.tables.retention import retention_finding, retention_header, retention_note
from tasks.reporting.tables.views import Table
from tasks.reporting.views.read import NEEDED
from tasks.reporting.views.study import Study

COLUMNS = ("Forgetting, nats/token", "KL(base || run) on the base's answers, nats/token")


def column(table: Table, title: str) -> dict[tuple[str, str], list[str]]:
    """(benchmark, run) -> the cell's text and what is beneath it."""
    place = table.header.index(title)
    return {(row[0].text, row[1].text): [row[place].text, *row[place].subs] for row in table.rows}


def test_every_table_of_accuracy_has_what_was_forgotten(study: Study) -> None:
    """sft gains .06: 5 x .06 = .3 nats are forgotten and its KL is 1.2 x .3 = .36, half of it at first tokens."""
    assert retention_header(study) == COLUMNS
    lost, far = (column(accuracy_table(study), title) for title in COLUMNS)
    assert lost["Held-out", "base"] == far["Held-out", "base"] == ["0"]
    assert lost["Held-out", "sft"] == ["0.300", "[0.270, 0.330]"]
    assert far["Held-out", "sft"] == ["0.360", "[0.300, 0.420]", "50.0 % of it at the first token"]
    assert far["Held-out", "dpo"] == ["0", "[0, 0]"]  # nothing, of which no share is defined
    assert lost["Hard", "sft"] == ["-"]  # texts belong to no benchmark: they stand once
    assert lost["Held-out", "Same method"] == ["0", "order 0"]  # sft and sft-order1 gain the same
    assert headline_table(study).header[-2:] == COLUMNS
    assert headline_table(study).rows[1][-2].text == "0.300"
    assert run_metrics(study)[study.trained[0]]["own_kl"] == 0.36


def test_the_note_says_on_what(study: Study) -> None:
    note = retention_note(study)
    assert "the held-out solutions in the base's own style" in note
    assert "(n = 400)" in note
    assert "(greedy, n = 60)" in note
    named = replace(study, record=study.record | {"settings": {"functions": {"texts": "mine.jsonl"}}},
                    retention=study.retention.with_columns(drawn=True))  # fmt: skip
    assert "the texts of functions.texts" in retention_note(named)
    assert "(drawn at temperature 1, n = 60)" in retention_note(named)


def test_the_sentence_begins_with_the_least(study: Study) -> None:
    said = retention_finding(study)
    places = [said.index(f" {run} ") for run in ("dpo", "dft", "offline_grpo", "rft")]
    assert places == sorted(places)
    assert "dft 0.100 [0.0900, 0.110]" in said


def test_where_one_of_both_or_nothing_was_measured(study: Study) -> None:
    own = replace(study, retention=study.retention.with_columns(forgetting=pl.lit(None, pl.Float64())))
    assert retention_header(own) == COLUMNS[1:]
    assert retention_finding(own) == ""
    none = replace(study, retention=study.retention.clear())
    assert (retention_header(none), retention_note(none), retention_finding(none)) == ((), "", "")
    assert not set(COLUMNS) & {*accuracy_table(none).header, *headline_table(none).header}
    assert "retention.parquet" not in NEEDED
