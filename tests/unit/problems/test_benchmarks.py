"""The benchmarks that have names, against the real files; and what is refused before any work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from tasks.core.errors import InputError
from tasks.core.frames import PROBLEMS
from tasks.core.rows import question_id
from tasks.problems.benchmarks import (
    BENCHMARKS,
    BOXED,
    benchmark_name,
    check_names,
    frame_digest,
    open_benchmark,
)
from tasks.problems.files import normal_gold, unasked
from tasks.problems.hub import parse_hub
from tasks.problems.overlap import bare_key, question_key
from tests.lab.real_problems import real_data

SENTENCE = "Please reason step by step, and put your final answer within \\boxed{}."


def lines(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_every_entry_can_be_asked_and_found() -> None:
    names = [benchmark.name for benchmark in BENCHMARKS]
    assert len(set(names)) == len(names)
    for benchmark in BENCHMARKS:
        assert benchmark.template.count("{question}") == 1
        assert benchmark.licence
        assert benchmark.source
        if benchmark.parts:
            assert benchmark.n == sum(one.n for one in BENCHMARKS if one.name in benchmark.parts)
        else:
            assert parse_hub(benchmark.hub)[0].count("/") == 1


@pytest.mark.parametrize(
    ("name", "n", "gold"),
    [
        ("gsm8k", 1319, r"-?\d+"), ("gsm8k-train", 7473, r"-?\d+"), ("aime2024", 30, r"\d{1,3}"),
        ("aime2025", 30, r"\d{1,3}"), ("aime2026", 30, r"\d{1,3}"), ("aime", 90, r"\d{1,3}"),
        ("math500", 500, r"(?s).+"),
        ("deepscaler", 9097, r"(?s).+"),
    ],
)  # fmt: skip
def test_a_benchmark_is_whole_and_asked_by_its_template(name: str, n: int, gold: str) -> None:
    real_data()
    loaded = open_benchmark(name)
    frame = loaded.problems.frame
    assert frame.schema == PROBLEMS
    assert frame.height == n == next(one.n for one in BENCHMARKS if one.name == name)
    assert frame["split"].unique().to_list() == [name]
    assert frame["problem_id"].is_unique().all()
    assert frame["answer"].str.contains(f"^{gold}$").all()
    assert loaded.template == BOXED
    assert frame["question"].str.ends_with(f"\n{SENTENCE}").all()
    assert frame["question"].str.count_matches(SENTENCE, literal=True).unique().to_list() == [1]  # MATH-500 has its own


def test_ids_are_of_the_bare_question_or_the_file() -> None:
    real_data()
    aime = open_benchmark("aime2026").problems.frame
    assert aime["problem_id"].to_list() == [f"2026-{part}-{i}" for part in ("I", "II") for i in range(1, 16)]
    math = open_benchmark("math500").problems.frame.row(0, named=True)
    assert math["problem_id"] == question_id(unasked(math["question"], BOXED))
    assert math["answer"] == r"\left( 3, \frac{\pi}{2} \right)"
    assert math["solution"] is None
    gsm = open_benchmark("gsm8k").problems.frame.row(0, named=True)
    assert (gsm["answer"], gsm["solution"][-7:]) == ("18", "#### 18")


def test_prompts_without_a_gold_are_left_out_and_counted() -> None:
    real_data()
    problems = open_benchmark("deepscaler").problems
    assert (problems.frame.height, problems.without_gold, problems.repeated) == (9097, 3, 0)


def test_a_part_is_stable_and_more_contain_fewer() -> None:
    real_data()
    few, more, whole = (open_benchmark("gsm8k").choose(n)["problem_id"].to_list() for n in (50, 200, 5000))
    assert more[:50] == few
    assert len(set(more)) == 200
    assert len(whole) == 1319
    assert few != whole[:50]  # a hash chooses, not the file's order


def test_a_copy_that_is_not_whole_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gsm8k").mkdir()
    lines(tmp_path / "gsm8k" / "test.jsonl", [{"question": "q", "answer": "#### 4"}])
    monkeypatch.setenv("COLINEAR_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"^gsm8k/test\.jsonl: gsm8k has 1319 problems, but 1 are there; get it whole"):
        open_benchmark("gsm8k")


def test_a_file_of_ones_own_has_any_columns_and_is_asked_as_it_is(tmp_path: Path) -> None:
    path = lines(tmp_path / "mine.jsonl", [{"nr": 7, "Frage": "2 + 2?", "Antwort": "so\n#### 1,234", "Weg": "x"}])
    fields = {"question": "Frage", "answer": "Antwort", "id": "nr"}
    frame = open_benchmark(str(path), fields).problems.frame
    assert frame.rows() == [("7", "mine.jsonl", "2 + 2?", "1234", "so\n#### 1,234")]
    pl.DataFrame({"Frage": ["2 + 2?"], "Antwort": ["4"], "Weg": ["x"]}).write_parquet(tmp_path / "mine.parquet")
    named = {**fields, "id": "Nr", "solution": "Weg"}
    mapped = open_benchmark(str(tmp_path / "mine.parquet"), named).problems.frame
    assert mapped.rows() == [(question_id("2 + 2?"), "mine.parquet", "2 + 2?", "4", "x")]
    with pytest.raises(InputError, match=r"line 1, field `Fragen`: .* got nothing; .* evaluation\.fields$"):
        open_benchmark(str(path), {**fields, "question": "Fragen"})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "expected at least one problem"),
        ([{"id": 1, "question": "q", "answer": "4"}, {"id": 1, "question": "r", "answer": "4"}], "each problem once"),
        ([{"question": "q", "answer": ""}], "non-empty string or a number"),
    ],
)
def test_empty_repeated_or_unanswered_problems_are_refused(
    tmp_path: Path, rows: list[dict[str, object]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        open_benchmark(str(lines(tmp_path / "mine.jsonl", rows)))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["gms8k"], "no benchmark 'gms8k'; did you mean 'gsm8k'?"),
        (["poetry"], "no benchmark 'poetry'; known: gsm8k, "),
        (["gsm8k", "math500", "gsm8k"], "'gsm8k' is listed twice"),
        (["a/mine.jsonl", "b/mine.jsonl"], "'mine.jsonl' is listed twice"),
        (["deepscaler"], "'deepscaler' is a set of training prompts; evaluate on one of gsm8k, aime2024"),
    ],
)
def test_names_are_refused_before_anything_is_read(names: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        check_names(names)
    assert str(error.value).startswith(f"evaluation.benchmarks: {message}")
    assert "\n" not in str(error.value)
    check_names(["gsm8k", "mine.jsonl", "hub:org/name"])


@pytest.mark.parametrize("name", ["hub:name", "hub:org/name:", "hub:a/b:c:d:e", "hub:/b", "hub:a/b/c"])
def test_a_hub_name_of_another_shape_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="expected hub:org/name"):
        benchmark_name(name)


def test_hub_names() -> None:
    assert parse_hub("hub:org/name") == ("org/name", None, "test")
    assert parse_hub("hub:org/name:train") == ("org/name", None, "train")
    assert parse_hub("hub:openai/gsm8k:main:test") == ("openai/gsm8k", "main", "test")


def by_datasets(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs in ``folder`` without network: `datasets` takes a folder of the same name for the Hub's data set."""
    root = Path(__file__).parents[3]
    program = f"import sys; sys.path.insert(0, {str(root)!r})\n{code}"
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home"), "PATH": ""}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=folder, env=environment
    )


@pytest.mark.slow
def test_a_data_set_is_read_by_datasets(tmp_path: Path) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    lines(tmp_path / "org" / "name" / "train.jsonl", [{"problem": "q", "answer": 12, "level": 3}])
    done = by_datasets(
        "from tasks.problems.benchmarks import open_benchmark\n"
        "print(open_benchmark('hub:org/name:train').problems.frame.rows())",
        tmp_path,
    )
    assert done.stdout == f"[('{question_id('q')}', 'org/name:train', 'q', '12', None)]\n", done.stderr


@pytest.mark.slow
def test_without_network_file_or_cache_one_line_says_so(tmp_path: Path) -> None:
    done = by_datasets(
        "from tasks.core.errors import InputError\nfrom tasks.problems.benchmarks import open_benchmark\n"
        "try: open_benchmark('gsm8k')\nexcept InputError as error: print(error)",
        tmp_path,
    )
    assert done.stdout.startswith("hub:openai/gsm8k:main:test: not to be had from the Hub ("), done.stderr
    assert done.stdout.endswith("or give a local file\n")
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("gold", "kind", "expected"),
    [
        ("012", "integer", "12"), ("000", "integer", "0"), ("142.0", "integer", "142"), ("-7", "integer", "-7"),
        ("1/2", "integer", None), ("1800", "number", "1800"), ("2.50", "number", "2.50"), ("5 eggs", "number", None),
        ("012", "text", "012"), ("10{,}000", "text", "10{,}000"),
    ],
)  # fmt: skip
def test_golds_are_normalised_by_their_benchmarks_rule_only(gold: str, kind: str, expected: str | None) -> None:
    assert normal_gold(gold, kind) == expected  # type: ignore[arg-type]


def test_a_template_is_taken_off_where_it_is_whole() -> None:
    assert unasked(f"2 + 2?\n{SENTENCE}", BOXED) == "2 + 2?"
    assert unasked("2 + 2?", BOXED) == "2 + 2?"
    assert unasked(f"\n{SENTENCE}", BOXED) == f"\n{SENTENCE}"  # no question in it


def test_an_instruction_sentence_makes_no_other_question() -> None:
    assert bare_key(f"2 +  2?\n{SENTENCE}") == bare_key("2 + 2?") == question_key("2 + 2?")
    assert bare_key(f"{SENTENCE} 2 + 2?") == question_key("2 + 2?")
    assert bare_key("2 + 3?") != bare_key("2 + 2?")
    assert bare_key(SENTENCE) == question_key(SENTENCE)


def test_the_digest_is_of_the_rows_in_their_order() -> None:
    rows = [("a", "s", "q", "4", None), ("b", "s", "r", "5", "x")]
    frame = pl.DataFrame(rows, schema=PROBLEMS, orient="row")
    assert frame_digest(frame) == frame_digest(frame.clone())
    assert frame_digest(frame) != frame_digest(frame.reverse())
