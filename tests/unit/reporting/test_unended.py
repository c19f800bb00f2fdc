"""A base whose answers do not end: said above everything else, and no accuracy is judged; and how the base is asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import polars as pl

from tasks.reporting.claims.measured import Missing
from tasks.reporting.claims.readings import accuracy
from tasks.reporting.findings.headline import Findings, findings
from tasks.reporting.tables.headline import headline_table
from tasks.reporting.tables.record import turn_tables
from tasks.reporting.views.study import Study

TURN: dict[str, Any] = {
    "prompt": "<bos>What is 1 + 1?\n",
    "opens": "",
    "answer": "2<end>",
    "ends": [[1, "<eos>", "config.json"], [5, "<end>", "generation_config.json"]],
    "closing": 5,
    "date": None,
    "split": None,
    "rule": None,
}


def told(tables: Study) -> Findings:
    return findings(tables)


def cut(study: Study, run: str, share: float) -> Study:
    here = (pl.col("run") == run) & (pl.col("benchmark") == "heldout")
    truncated = pl.when(here).then((pl.col("n") * share).cast(pl.Int64)).otherwise("truncated").alias("truncated")
    return replace(study, accuracy=study.accuracy.with_columns(truncated))


def test_it_stands_above_all_and_nothing_is_judged(study: Study) -> None:
    failed = [{"name": "a check", "ok": False, "detail": "no"}]
    endless = cut(replace(study, record={**study.record, "checks": failed}), "base", 0.5).judged()
    said = told(endless)
    assert "200 of 400 on the held-out problems were cut at evaluation.max_new_tokens" in said.warnings[0]
    own = endless.mcnemar.filter(benchmark="heldout")
    assert own["verdict"].unique().to_list() == ["not judged"]
    assert own["p_value"].null_count() == own["p_holm"].null_count() == own["detectable"].null_count() == own.height > 0
    others = pl.col("benchmark") != "heldout"
    assert endless.mcnemar.filter(others).equals(study.mcnemar.filter(others))


def test_the_headline_and_the_claims_do_not_judge_either(study: Study) -> None:
    endless = cut(study, "base", 1.0).judged()
    rows = [row for row in headline_table(endless).rows if row[0].text != "base"]
    assert len(rows) >= 7
    assert all("not judged" in row[4].subs for row in rows)
    reading = accuracy(("sft", "base"), ("rft", "sft"))
    assert reading(endless) == [
        Missing("not judged: the base's answers to Held-out problems do not end")
    ] * 2  # fmt: skip
    assert not any(isinstance(part, Missing) for part in reading(study))


def test_fewer_than_half_and_another_models_cut_answers_leave_all_as_it_is(study: Study) -> None:
    for tables in (cut(study, "base", 0.49), cut(study, "sft", 1.0)):
        assert tables.judged().mcnemar.equals(study.mcnemar)
        assert not any("does not end" in warning for warning in told(tables).warnings)


def test_a_template_that_ends_within_a_token_is_a_warning(study: Study) -> None:
    split = replace(study, record={**study.record, "turn": {**TURN, "split": " T"}})
    (warning,) = told(split).warnings
    assert warning.startswith(
        "model.prompt_template ends within a token: the tokenizer writes its end and the answer's beginning as ' T', "
    )


def test_the_table_shows_the_prompt_what_is_taught_and_every_end(study: Study) -> None:
    assert turn_tables(study) == []
    (table,) = turn_tables(replace(study, record={**study.record, "turn": TURN}))
    assert [tuple(cell.text for cell in row) for row in table.rows] == [
        ("The prompt of a question", "<bos>What is 1 + 1?\\n"),
        ("What it has begun of the answer", "nothing"),
        ("What training teaches for it", "2<end>"),
        ("The token that training ends an answer with", "<end> (5)"),
        ("A token that ends an answer", "<eos> (1): config.json"),
        ("A token that ends an answer", "<end> (5): generation_config.json"),
        ("The date in the chat template", "none"),
    ]
