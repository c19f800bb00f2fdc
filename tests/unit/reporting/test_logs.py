"""The page of evaluation logs: its sentence, its tables, and its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tasks.core.errors import InputError
from tasks.core.frames import LOG_MODELS, LOG_PAIRS
from tasks.reporting.findings.logs import answer
from tasks.reporting.publish.logs import logs_document, write_logs
from tasks.reporting.tables.logs import log_models_table, log_pairs_table


def pair(a: str, b: str, difference: float, verdict: str, detectable: float | None = 3.0) -> dict[str, Any]:
    return {
        "a": a, "b": b, "n": 100, "only_a": 10, "only_b": 2, "difference": difference, "low": difference - 1,
        "high": difference + 1, "p": 0.02, "p_mid": 0.01, "p_holm": 0.04, "verdict": verdict, "detectable": detectable,
    }  # fmt: skip


def frame(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=LOG_PAIRS)


def models(*names: str, k: int = 1) -> pl.DataFrame:
    rows = [
        {"model": name, "n": 100, "k": k, "accuracy": 50.0 + i, "low": 40.0, "high": 60.0 + i, "pass_at_k": 70.0}
        for i, name in enumerate(names)
    ]
    return pl.DataFrame(rows, schema=LOG_MODELS)


EQUAL = "equal within 2 points"
DIFFERS, LITTLE, NO = "differs", "differs, by less than 2 points", "no power"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([pair("a", "b", 8, DIFFERS)], "a is right more often than b (by 8.0 points)."),
        ([pair("a", "b", -8, DIFFERS)], "b is right more often than a (by 8.0 points)."),
        ([pair("a", "b", 1, LITTLE)], "a is right more often than b (by 1.0 points, surely less than 2)."),
        ([pair("a", "b", 0.1, EQUAL)], "a and b are equal within 2 points."),
        (
            [pair("a", "b", 1, NO, 8.44)],
            "whether a or b is right more often cannot be told: on these problems a true difference below 8.4 points "
            "is mostly missed.",
        ),
        ([pair("a", "b", 1, NO, None)], "whether a or b is right more often cannot be told."),
        (
            [pair("a", "b", 8, DIFFERS), pair("a", "c", 2.5, DIFFERS), pair("b", "c", 0, EQUAL)],
            "a is right more often than b and c (by 2.5 to 8.0 points); b and c are equal within 2 points.",
        ),
        (
            [pair("a", "b", 0, EQUAL), pair("a", "c", 0, EQUAL), pair("b", "c", 1, NO)],
            "2 pairs (a and b, a and c) are equal within 2 points; whether b or c is right more often cannot be told: "
            "on these problems a true difference below 3.0 points is mostly missed.",
        ),
        (
            [pair("a", "b", 0, NO, 4), pair("a", "c", 0, NO, 5), pair("b", "c", 1, NO, 3)],
            "none of the 3 pairs can be told apart: on these problems a true difference below 5.0 points is mostly "
            "missed.",
        ),
    ],
)
def test_one_sentence_says_who_differs_who_is_equal_and_who_cannot_be_told(rows: list[Any], said: str) -> None:
    assert answer(frame(*rows), 2.0) == said


def test_of_many_pairs_the_sentence_names_a_few() -> None:
    names = "abcdefgh"
    rows = [pair(a, b, 5, DIFFERS) for i, a in enumerate(names) for b in names[i + 1 :]]
    said = answer(frame(*rows), 2.0)
    assert said.startswith("a is right more often than 7 models (by 5.0 points); b is right more often than 6 models")
    assert said.endswith("; 10 more pairs differ.")  # 28 - 7 - 6 - 5


def test_verdicts_are_a_sign_a_word_and_a_colour_and_differences_come_first() -> None:
    rows = [pair("a", "b", 0, EQUAL), pair("a", "c", 1, NO), pair("b", "c", -3, DIFFERS), pair("c", "d", 8, DIFFERS)]
    table = log_pairs_table(frame(*rows), 2.0)
    verdict = table.header.index("Verdict")
    assert [(row[0].plain, row[verdict].text, row[verdict].tone) for row in table.rows] == [
        ("c (less d)", "▲ higher", "good"), ("b (less c)", "▼ lower", "bad"), ("a (less c)", "? undecided", "open"),
        ("a (less b)", "= equal", "same"),
    ]  # fmt: skip
    assert table.rows[2][verdict].subs == ("below 3.0 points",)
    slight = log_pairs_table(frame(pair("a", "b", 0.5, "differs, by less than 1 point")), 1.0)
    assert slight.rows[0][verdict].text == "▲ higher, slightly"


def test_samples_have_their_columns() -> None:
    assert "Samples" not in log_models_table(models("a")).header
    table = log_models_table(models("a", "b", k=4))
    assert table.header[-2:] == ("Samples", "pass@k, %")
    assert [row[0].text for row in table.rows] == ["b", "a"]  # the most accurate first


def test_the_folder_has_the_page_and_the_numbers_and_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    given = models("=HYPERLINK(1)", "b<script>"), frame(pair("=HYPERLINK(1)", "b<script>", 8, DIFFERS))
    for name in ("one", "two"):
        write_logs(*given, 2.0, {"margin": 2.0}, tmp_path / name, ["a note"], ["a warning. More"])
    one, two = (
        {f.name: f.read_bytes() for f in (tmp_path / name).rglob("*") if f.is_file()} for name in ("one", "two")
    )
    assert one == two
    page = one["report.html"].decode()
    assert "b<script>" not in page.replace('"b\\u003cscript\\u003e"', "")
    assert "1 warning: a warning." in page
    assert "a note" in page
    assert pl.read_parquet(tmp_path / "one" / "pairs.parquet").equals(given[1])
    assert pl.read_csv(tmp_path / "one" / "pairs.csv")["a"].to_list() == ["'=HYPERLINK(1)"]
    assert "right more often than" in one["report.md"].decode()


def test_many_models_are_counted_in_the_title_and_cut_in_the_figure() -> None:
    many = models(*(f"model-with-a-long-name-{i}" for i in range(60)))
    document = logs_document(many, frame(pair("a", "b", 8, DIFFERS)), 2.0, [], [])
    assert document.name == "60 models"
    assert "The first 48 of 60 models" in document.pictures[0].note


def test_frames_of_another_schema_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pairs: missing columns"):
        write_logs(models("a"), frame().drop("p_mid"), 2.0, {}, tmp_path)
