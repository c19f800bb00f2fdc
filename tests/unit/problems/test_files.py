"""Reading other people's held-out problems."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tasks.core.errors import InputError
from tasks.core.frames import PROBLEMS
from tasks.problems.files import read_problems
from tests.lab.real_problems import real_data
from tests.lab.refusals import refusal

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes rows as JSON lines (bytes as they are) and returns the file."""

    def write_rows(*rows: object, name: str = "mine.jsonl") -> Path:
        path = tmp_path / name
        path.write_bytes(b"\n".join(r if isinstance(r, bytes) else json.dumps(r).encode() for r in rows) + b"\n")
        return path

    return write_rows


def test_a_worked_solution_is_split_and_a_bare_gold_is_kept(write: Write) -> None:
    frame = read_problems(write(
        {"id": "a", "question": "q1", "answer": "9 * 200 = <<9*200=1800>>1800\n#### 1,800"},
        {"problem_id": 7, "problem": "q2", "gold": "\\frac{1}{2}", "solution": "halve it"},
        {"id": "c", "prompt": "q3\n", "answer": 204}, {"id": "d", "question": "q4", "ground_truth": "so\nA: 18"},
        {"id": "e", "question": "q5", "answer": "1,234"},
    ))  # fmt: skip
    assert dict(frame.schema) == PROBLEMS
    assert frame.rows() == [
        ("a", "heldout", "q1", "1800", "9 * 200 = <<9*200=1800>>1800\n#### 1,800"),
        ("7", "heldout", "q2", "\\frac{1}{2}", "halve it"),
        ("c", "heldout", "q3\n", "204", None),
        ("d", "heldout", "q4", "18", "so\nA: 18"),
        ("e", "heldout", "q5", "1,234", None),
    ]


def test_a_derived_id_is_that_of_the_same_question_in_rollouts(write: Write) -> None:
    from tasks.rollouts.files import read_rollouts

    problems = read_problems(write({"question": "2 + 2?", "answer": "4"}))
    rollouts = read_rollouts(write({"prompt": "2 + 2?", "completion": "4", "reward": 1}))
    assert problems["problem_id"].to_list() == rollouts["problem_id"].to_list()


def test_parquet_reads_like_jsonl(write: Write, tmp_path: Path) -> None:
    rows = [{"question": "q", "answer": "x\n#### 1,234"}, {"question": "r", "answer": "5"}]
    pl.DataFrame(rows).write_parquet(tmp_path / "mine.parquet")
    assert read_problems(tmp_path / "mine.parquet").equals(read_problems(write(*rows)))


@pytest.mark.parametrize(
    ("number", "text"),
    [(1e-05, "0.00001"), (1e22, "1" + "0" * 22), (-2.5e-7, "-0.00000025"), (0.1, "0.1"), (142.0, "142.0"), (-3, "-3")],
)
def test_a_gold_that_is_a_number_is_written_positionally(write: Write, number: float, text: str) -> None:
    assert read_problems(write({"question": "q", "answer": number}))["answer"].to_list() == [text]


def test_a_gold_in_single_precision_is_the_decimal_that_it_stands_for(tmp_path: Path) -> None:
    golds = pl.Series([0.1, 1e-05, None, 16777216.0], dtype=pl.Float32)
    frame = pl.DataFrame({"question": ["a", "b", "c", "d"], "answer": golds}).filter(pl.col("answer").is_not_null())
    frame.write_parquet(tmp_path / "mine.parquet")
    assert read_problems(tmp_path / "mine.parquet")["answer"].to_list() == ["0.1", "0.00001", "16777216.0"]


def test_our_own_frame_reads_back(tmp_path: Path) -> None:
    frame = pl.DataFrame([("a", "heldout", "q", "4", "so\n#### 4"), ("b", "heldout", "r", "5", None)],
                         schema=PROBLEMS, orient="row")  # fmt: skip
    frame.write_parquet(tmp_path / "own.parquet")
    again = read_problems(tmp_path / "own.parquet")
    assert again.equals(frame)


OK = {"id": "ok", "question": "fine", "answer": "1"}


@pytest.mark.parametrize(
    ("bad", "field", "message"),
    [
        ({"answer": "4"}, "question", "non-empty string, got nothing"),
        ({"problem": " ", "answer": "4"}, "problem", "got ' '"),
        ({"question": 3, "answer": "4"}, "question", "got 3"),
        ({"question": "q\ud800", "answer": "4"}, "question", "half a surrogate pair"),
        ({"question": "q"}, "answer", "got nothing"),
        ({"question": "q", "gold": ""}, "gold", "got ''"),
        ({"question": "q", "answer": False}, "answer", "got False"),
        ({"question": "q", "answer": float("nan")}, "answer", "got nan"),
        ({"question": "q", "answer": ["4"]}, "answer", "got ['4']"),
        ({"question": "q", "answer": "4", "solution": 4}, "solution", "a string, got 4"),
        ({"question": "q", "answer": "4", "id": ""}, "id", "got ''"),
        ({"question": "q", "answer": "4", "id": 1.5}, "id", "got 1.5"),
        ({"question": "q", "answer": "4", "id": "ok"}, "problem_id", "each problem once, but 'ok' is also in"),
    ],
)
def test_a_malformed_row_is_refused_in_one_line(write: Write, bad: dict[str, Any], field: str, message: str) -> None:
    path = write(OK, bad)
    text = refusal(read_problems, path)
    assert text.startswith(f"{path}, line 2, field `{field}`: expected ")
    assert message in text
    assert "; " in text


def test_the_same_question_twice_without_ids_is_refused(write: Write) -> None:
    path = write({"question": "q", "answer": "4"}, OK, {"question": "q", "answer": "4"})
    with pytest.raises(InputError, match=r"line 3, field `problem_id`: .* is also in .*line 1; remove one"):
        read_problems(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{'question': 1}", "line 1: expected one JSON object a line, got invalid JSON at column 2"),
        (b"[]", "line 1: expected one JSON object"),
        (b'{"question": "\xe9"}', "line 1: expected UTF-8, got byte 0xe9 at 14"),
        (b'{"answer": ' + b"1" * 5000 + b"}", "ordinary size"),
        (b"", "expected at least one problem, got an empty file"),
    ],
)
def test_an_unreadable_file_is_refused(write: Write, content: bytes, message: str) -> None:
    assert message in refusal(read_problems, write(content))


def test_missing_files_other_suffixes_and_damaged_parquet_are_refused(write: Write, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_problems(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match=r"expected a \.jsonl or \.parquet file"):
        read_problems(write(OK, name="mine.csv"))
    with pytest.raises(InputError, match="expected a parquet file"):
        read_problems(write(OK, name="mine.parquet"))


# --- real files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "rows"), [("train", 7473), ("test", 1319)])
def test_every_gsm8k_gold_is_a_bare_number(name: str, rows: int) -> None:
    frame = read_problems(real_data(f"gsm8k/{name}.jsonl"))
    assert frame.height == rows
    assert frame["answer"].str.contains(r"^-?\d+(\.\d+)?$").all()
    assert frame["solution"].str.contains("####").all()


def test_aime_and_math500_golds_are_kept_as_they_are() -> None:
    aime = read_problems(real_data("aime/aime_2024_2026.jsonl"))
    assert aime.height == 90
    assert aime.row(0, named=True)["problem_id"] == "2024-I-1"
    assert aime["answer"].cast(pl.Int64).is_between(0, 999).all()
    math = read_problems(real_data("math500/math500.jsonl"))
    assert (math.height, math["answer"][0]) == (500, r"\left( 3, \frac{\pi}{2} \right)")


def test_a_real_file_with_a_missing_gold_is_refused_with_its_line() -> None:
    with pytest.raises(InputError, match=r"line 6005, field `answer`: .* got ''"):
        read_problems(real_data("deepscaler/train.jsonl"))
