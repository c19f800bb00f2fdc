"""Reading other people's rollouts: every layout, every refusal, and any bytes at all."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.errors import InputError
from tasks.core.frames import GRADED
from tasks.rollouts.files import ROLLOUT_FILE, describe, heldout_split, read_rollouts
from tasks.rollouts.layouts import bare_gold
from tests.lab.real_problems import real_data
from tests.lab.refusals import refusal

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes rows as JSON lines (a str or bytes row as it is) and returns the file."""

    def write_rows(*rows: object, name: str = "mine.jsonl") -> Path:
        lines = [r if isinstance(r, bytes) else (r if isinstance(r, str) else json.dumps(r)).encode() for r in rows]
        path = tmp_path / name
        path.write_bytes(b"\n".join(lines) + b"\n")
        return path

    return write_rows


def row(**changes: Any) -> dict[str, Any]:
    """A valid row of the completion layout, with ``changes``; a change to ``...`` removes the field."""
    values = {"problem_id": "a", "prompt": "2 + 2?", "completion": "4", "answer": "4", "reward": 1, **changes}
    return {key: value for key, value in values.items() if value is not ...}


# --- layouts ---------------------------------------------------------------------------------------------------------


def test_one_row_a_completion_with_everything_given(write: Write) -> None:
    frame = read_rollouts(write(
        row(logprobs=[-0.5, 0, -1e-9], finish_reason="length", seed=-3), row(completion="", reward=False),
        row(problem_id=7, prompt=" q\n", completion=" 5 \n", answer=5.5, reward=0.0), row(reward=True),
    ))  # fmt: skip
    assert dict(frame.schema) == ROLLOUT_FILE
    assert frame.rows() == [
        ("a", 0, "2 + 2?", "4", "4", 1.0, [-0.5, 0.0, -1e-9], "length", -3),
        ("a", 1, "2 + 2?", "", "4", 0.0, None, "stop", 0),
        ("7", 0, " q\n", " 5 \n", "5.5", 0.0, None, "stop", 0),
        ("a", 2, "2 + 2?", "4", "4", 1.0, None, "stop", 0),
    ]


@pytest.mark.parametrize("prompt", ["prompt", "question", "problem"])
@pytest.mark.parametrize("completion", ["completion", "response", "solution"])
@pytest.mark.parametrize("gold", ["answer", "gold", "ground_truth"])
@pytest.mark.parametrize("reward", ["reward", "is_correct", "score", "given_reward"])
def test_every_name_of_a_field_is_understood(
    write: Write, prompt: str, completion: str, gold: str, reward: str
) -> None:
    frame = read_rollouts(write({prompt: "q", completion: "c", gold: "g", reward: 1}))
    assert frame.select("prompt", "completion", "answer", "reward").row(0) == ("q", "c", "g", 1.0)


def test_null_is_not_given_and_two_columns_that_say_the_same_are_one(write: Write) -> None:
    frame = read_rollouts(
        write({"question": "q", "prompt": None, "response": "r", "solution": "r", "reward": 1, "score": True})
    )
    assert frame.select("prompt", "completion", "reward").row(0) == ("q", "r", 1.0)


def test_one_row_a_prompt(write: Write) -> None:
    frame = read_rollouts(write(
        {"problem_id": "a", "prompt": "q", "completions": ["x", ""], "rewards": [1, 0]},
        {"problem_id": "b", "question": "r", "answer": "5", "completions": [
            {"completion": "y", "reward": True, "logprobs": [-1.0], "seed": 4}, {"response": "z", "is_correct": 0},
            {"solution": "w", "finish_reason": "length"}]},
        {"problem_id": "c", "prompt": "s", "gold": "1", "completions": ["v"], "rewards": [None]},
    ))  # fmt: skip
    assert frame.rows() == [
        ("a", 0, "q", "x", None, 1.0, None, "stop", 0),
        ("a", 1, "q", "", None, 0.0, None, "stop", 0),
        ("b", 0, "r", "y", "5", 1.0, [-1.0], "stop", 4),
        ("b", 1, "r", "z", "5", 0.0, None, "stop", 0),
        ("b", 2, "r", "w", "5", None, None, "length", 0),
        ("c", 0, "s", "v", "1", None, None, "stop", 0),
    ]


def test_grade_school_math_layout(write: Write) -> None:
    frame = read_rollouts(write({
        "question": "q", "ground_truth": "9 * 200 = <<9*200=1800>>1800\nA: 1,800",
        "small": {"solution": "so\nA: 3", "is_correct": False}, "large": {"solution": "A: 1800", "is_correct": True},
    }))  # fmt: skip
    assert frame.select("rollout_id", "completion", "answer", "reward").rows() == [
        (0, "so\nA: 3", "1800", 0.0),
        (1, "A: 1800", "1800", 1.0),
    ]


def test_qwen_layout_takes_gt_and_code_not_the_reference_solution(write: Write) -> None:
    frame = read_rollouts(write({
        "question": "q", "gt": "10{,}000", "answer": "10,000 ", "solution": "reference", "response": ["other", "other"],
        "code": ["x", "y"], "score": [True, False], "pred": ["1", "2"],
    }))  # fmt: skip
    assert frame.select("completion", "answer", "reward").rows() == [("x", "10{,}000", 1.0), ("y", "10{,}000", 0.0)]


def test_our_own_parquet_reads_back(tmp_path: Path) -> None:
    graded = pl.DataFrame(
        {
            "problem_id": ["a", "a"], "rollout_id": [0, 1], "prompt": ["q", "q"], "completion": ["x", ""],
            "prompt_ids": [[1], [1]], "completion_ids": [[2, 3], [3]], "logprobs": [[-0.1, -0.2], None],
            "finish_reason": ["stop", "length"], "seed": [5, 6], "answer": ["4", "4"], "extracted": ["4", None],
            "given_reward": [None, None], "reward": [1.0, 0.0], "grader": ["math-verify 0.9.0"] * 2,
        },
        schema=GRADED,
    )  # fmt: skip
    graded.write_parquet(tmp_path / "graded.parquet")
    frame = read_rollouts(tmp_path / "graded.parquet")
    assert dict(frame.schema) == ROLLOUT_FILE
    assert frame.equals(graded.select(list(ROLLOUT_FILE)))


def test_what_was_read_reads_back_from_parquet_and_jsonl(write: Write, tmp_path: Path) -> None:
    frame = read_rollouts(
        write(row(logprobs=[-1.0]), row(reward=...), row(problem_id=..., answer=..., prompt="Ü\u2028"))
    )
    frame.write_parquet(tmp_path / "again.parquet")
    frame.write_ndjson(tmp_path / "again.jsonl")
    assert read_rollouts(tmp_path / "again.parquet").equals(frame)
    assert read_rollouts(tmp_path / "again.jsonl").equals(frame)


def test_nested_layouts_in_parquet(tmp_path: Path) -> None:
    pl.DataFrame(
        {"question": ["q"], "gold": ["4"], "completions": [[{"completion": "x", "reward": 1.0}]]}
    ).write_parquet(tmp_path / "nested.parquet")
    assert read_rollouts(tmp_path / "nested.parquet").row(0)[:6] == (_derived("q"), 0, "q", "x", "4", 1.0)


def _derived(prompt: str) -> str:
    return str(read_problem_id(prompt))


def read_problem_id(prompt: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.jsonl"
        path.write_text(json.dumps({"prompt": prompt, "completion": "c", "reward": 1}))
        return str(read_rollouts(path)["problem_id"][0])


def test_a_derived_id_depends_on_the_question_alone_and_is_stable(write: Write) -> None:
    frame = read_rollouts(
        write(row(problem_id=...), row(problem_id=..., completion="5"), row(problem_id=..., prompt="x"))
    )
    assert frame["rollout_id"].to_list() == [0, 1, 0]
    # printf '2 + 2?' | sha256sum
    assert frame["problem_id"][0] == "p-70b499c547e0a11f"


def test_the_gold_reaches_every_row_of_its_problem(write: Write) -> None:
    frame = read_rollouts(write(row(answer=...), row(), row(problem_id="b", answer=None)))
    assert frame["answer"].to_list() == ["4", "4", None]


def test_blank_lines_a_byte_order_mark_and_crlf_are_no_rows(write: Write) -> None:
    text = json.dumps(row())
    assert read_rollouts(write(b"\xef\xbb\xbf" + text.encode() + b"\r", "", "  ", text, "")).height == 2


def test_a_gold_that_is_a_number_is_written_positionally(write: Write) -> None:
    golds = [1e-05, 1e22, -2.5e-7, 0.1, 142.0, -3]
    frame = read_rollouts(write(*[row(problem_id=str(i), answer=gold) for i, gold in enumerate(golds)]))
    assert frame["answer"].to_list() == ["0.00001", "1" + "0" * 22, "-0.00000025", "0.1", "142.0", "-3"]


@pytest.mark.parametrize(
    ("gold", "bare"),
    [
        ("so 18\n#### 18", "18"), ("#### 1,234", "1234"), ("x\nA: 1,234,567 \n", "1234567"), ("x\n#### -5", "-5"),
        ("x\n#### $1,800.50", "$1800.50"), ("x\nA: 3, 4", "3, 4"), ("A", "A"), ("A: 18", "A: 18"), ("1,234", "1,234"),
        ("10{,}000", "10{,}000"), ("012", "012"), (" 5 ", " 5 "), ("#### 5\nno end", "#### 5\nno end"),
    ],
)  # fmt: skip
def test_bare_gold(gold: str, bare: str) -> None:
    assert bare_gold(gold) == bare


# --- refusals --------------------------------------------------------------------------------------------------------

REFUSED: list[tuple[object, str, str]] = [
    (row(prompt=...), "prompt", "non-empty string, got nothing"),
    (row(prompt=" \n"), "prompt", "non-empty string, got ' \\n'"),
    (row(prompt=[{"role": "user", "text": "q"}]), "prompt", "non-empty string, got [{"),
    (row(completion=...), "completion", "got nothing"),
    (row(completion=4), "completion", "as a string (it may be empty), got 4"),
    (row(reward=0.5), "reward", "0, 1, true or false, got 0.5"),
    (row(reward=2), "reward", "got 2"),
    (row(reward="1"), "reward", "got '1'"),
    (row(reward=..., score=float("nan")), "score", "got nan"),
    (row(reward=..., is_correct=[1]), "is_correct", "got [1]"),
    (row(reward=..., answer=...), "reward", "a reward or a reference answer, got neither"),
    (row(answer=""), "answer", "got ''"),
    (row(answer=True), "answer", "got True"),
    (row(answer=float("inf")), "answer", "got inf"),
    (row(answer=["4"]), "answer", "got ['4']"),
    (row(problem_id=""), "problem_id", "got ''"),
    (row(problem_id=1.5), "problem_id", "got 1.5"),
    (row(problem_id=True), "problem_id", "got True"),
    (row(logprobs=-1.0), "logprobs", "a list of numbers"),
    (row(logprobs=[-1.0, float("nan")]), "logprobs[1]", "got nan"),
    (row(logprobs=[float("-inf")]), "logprobs[0]", "got -inf"),
    (row(logprobs=[0.7]), "logprobs[0]", "a finite log-probability (at most 0), got 0.7"),
    (row(logprobs=["-1"]), "logprobs[0]", "got '-1'"),
    (row(logprobs=[None]), "logprobs[0]", "got nothing"),
    (row(logprobs=[False]), "logprobs[0]", "got False"),
    (row(logprobs=[-(10**400)]), "logprobs[0]", "got -1000"),
    (row(finish_reason="content_filter"), "finish_reason", "max_tokens"),
    (row(finish_reason="content_filter"), "finish_reason", "got 'content_filter'"),
    (row(finish_reason=True), "finish_reason", "got True"),
    (row(finish_reason=["stop"]), "finish_reason", "got ['stop']"),
    (row(seed=1.5), "seed", "64-bit integer, got 1.5"),
    (row(seed=2**63), "seed", "got 9223372036854775808"),
    (row(seed=True), "seed", "got True"),
    (row(prompt="other"), "prompt", "what problem_id 'a' has in"),
    (row(answer="5"), "answer", "what problem_id 'a' has in"),
    (row(problem_id="s", completion="\ud800"), "completion", "half a surrogate pair"),
    (row(problem_id="s", prompt="\udfff"), "prompt", "half a surrogate pair"),
    ({"prompt": "q", "completions": []}, "completions", "at least one completion, got []"),
    ({"prompt": "q", "completions": "x"}, "completions", "at least one completion, got 'x'"),
    ({"prompt": "q", "completions": ["x", "y"], "rewards": [1]}, "rewards", "2 rewards, one a completion, got [1]"),
    ({"prompt": "q", "completions": ["x"], "rewards": 1}, "rewards", "1 rewards, one a completion, got 1"),
    ({"prompt": "q", "completions": ["x", 3], "rewards": [1, 1]}, "completions[1].completion", "got 3"),
    ({"prompt": "q", "completions": ["x", "y"], "rewards": [1, 7]}, "completions[1].reward", "got 7"),
    ({"prompt": "q", "completions": ["x", "y"], "rewards": [1, None]}, "completions[1].reward", "got neither"),
    ({"prompt": "q", "completions": [{"body": "x", "reward": 1}]}, "completions[0].completion", "got nothing"),
    ({"prompt": "q", "completions": [{"completion": "x", "reward": 1}], "rewards": [1]}, "rewards", "has its own"),
    ({"question": "q", "ground_truth": "4", "m": {"solution": None, "is_correct": 1}}, "m.completion", "got nothing"),
    ({"question": "q", "ground_truth": "4", "m": {"solution": "x", "is_correct": 3}}, "m.is_correct", "got 3"),
    ({"question": "q", "gt": "4", "code": ["x"], "score": []}, "score", "1 rewards, one a completion, got []"),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "field", "message"), REFUSED)
def test_a_malformed_row_is_refused_in_one_line(write: Write, bad: object, field: str, message: str) -> None:
    path = write(row(), row(), bad, row())
    text = refusal(read_rollouts, path)
    assert text.startswith(f"{path}, line 3, field `{field}`: expected ")
    assert message in text
    assert "; " in text  # the way out
    assert len(text) < 500 + len(str(path))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b'{"prompt": "q"', "invalid JSON at column 15"),
        (b"plain words", "invalid JSON at column 1"),
        (b"[1, 2]", "expected one JSON object {...} a line, got [1, 2]"),
        (b"null", "got nothing"),
        (b'{"prompt": "\xff"}', "expected UTF-8, got byte 0xff at 12"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "numbers and nesting of ordinary size"),
        (b"[" * 100_000, "numbers and nesting of ordinary size"),
    ],
)
def test_a_line_that_is_no_json_object_is_refused_with_its_number(write: Write, bad: bytes, message: str) -> None:
    path = write(row(), "", bad)
    said = refusal(read_rollouts, path)
    assert said.startswith(f"{path}, line 3: expected ")
    assert message in said


def test_parquet_rows_are_counted_from_one(tmp_path: Path) -> None:
    path = tmp_path / "bad.parquet"
    pl.DataFrame({"prompt": ["q", "q"], "completion": ["x", "y"], "reward": [1.0, 0.25]}).write_parquet(path)
    with pytest.raises(InputError, match=r"bad\.parquet, row 2, field `reward`: expected 0, 1, .* got 0\.25"):
        read_rollouts(path)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"  \n"])
def test_an_empty_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "empty.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=r"empty\.jsonl: expected at least one rollout, got an empty file"):
        read_rollouts(tmp_path / "empty.jsonl")


def test_an_empty_parquet_frame_is_refused(tmp_path: Path) -> None:
    pl.DataFrame(schema=ROLLOUT_FILE).write_parquet(tmp_path / "empty.parquet")
    with pytest.raises(InputError, match="at least one rollout"):
        read_rollouts(tmp_path / "empty.parquet")


@pytest.mark.parametrize("name", ["no.jsonl", "no.parquet", "a\0b.jsonl", "x" * 300 + ".jsonl", ".", "folder.jsonl"])
def test_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(InputError, match=r"no such file|cannot be read|expected a \.jsonl"):
        read_rollouts(tmp_path / name)


@pytest.mark.parametrize("name", ["mine.csv", "mine", "mine.jsonl.xz", "mine.parquet.gz", "mine.gz", "mine.pkl"])
def test_another_suffix_is_refused(write: Write, name: str) -> None:
    with pytest.raises(InputError, match=r"expected a \.jsonl or \.parquet file"):
        read_rollouts(write(row(), name=name))


def test_a_damaged_parquet_file_is_refused(write: Write, tmp_path: Path) -> None:
    read_rollouts(write(row())).write_parquet(tmp_path / "good.parquet")
    content = (tmp_path / "good.parquet").read_bytes()
    for damaged in (b"", b"PAR1", content[:-1], content[: len(content) // 2], write(row()).read_bytes()):
        (tmp_path / "bad.parquet").write_bytes(damaged)
        with pytest.raises(InputError, match=r"bad\.parquet: expected a parquet file, got one that cannot be read"):
            read_rollouts(tmp_path / "bad.parquet")


# --- what is valid --------------------------------------------------------------------------------------------------

VALID = st.fixed_dictionaries(
    {"prompt": st.sampled_from(["q", "r"]), "completion": st.text(st.characters(exclude_categories=["Cs"]))},
    optional={"answer": st.just("4"), "logprobs": st.lists(st.floats(-1e9, 0), max_size=3), "seed": st.integers(0, 9)},
).flatmap(lambda v: st.sampled_from([0, 1, True, False]).map(lambda reward: {**v, "reward": reward}))


@given(st.lists(VALID, min_size=1, max_size=5))
@settings(max_examples=200, deadline=None)
def test_valid_rows_are_never_refused_and_nothing_is_stripped(rows: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "valid.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        frame = read_rollouts(path)
    assert frame["completion"].to_list() == [values["completion"] for values in rows]
    assert frame["reward"].to_list() == [float(values["reward"]) for values in rows]


# --- describe and split ----------------------------------------------------------------------------------------------


def test_describe(write: Write) -> None:
    frame = read_rollouts(write(
        row(reward=1), row(reward=0, completion=""),  # mixed
        row(problem_id="b", reward=1), row(problem_id="b", reward=1), row(problem_id="b", reward=...),
        row(problem_id="c", reward=..., completion=""),
    ))  # fmt: skip
    # given: 1, 0, 1, 1 -> 3 of 4 correct
    assert describe(frame) == {"problems": 3, "rows": 6, "k_min": 1, "k_max": 3, "given_rewards": 4,
                               "correct_share": 0.75, "mixed_groups": 1, "empty_completions": 2}  # fmt: skip
    assert describe(read_rollouts(write(row(reward=...))))["correct_share"] is None


def test_heldout_split_is_exact_nested_and_independent_of_order() -> None:
    ids = [f"p{i}" for i in range(1000)]
    tenth = heldout_split(ids, 0.1)
    assert len(tenth) == 100
    assert tenth == heldout_split(reversed(ids + ids), 0.1)
    assert tenth < heldout_split(ids, 0.2) < set(ids)
    assert heldout_split(ids, 0) == set()
    assert tenth - {"p0"} <= heldout_split(ids[1:], 0.1)  # one problem less moves no other one back into training
    # From a shell: for i in 0..9: printf "heldout:p$i" | sha256sum; the two smallest digests are those of p4 and p5.
    assert heldout_split([f"p{i}" for i in range(10)], 0.2) == {"p4", "p5"}


@pytest.mark.parametrize(
    ("n", "share", "held"), [(2, 0.01, 1), (2, 0.99, 1), (3, 0.5, 2), (10, 0.25, 3), (10, 0.04, 1)]
)
def test_heldout_split_rounds_half_up_and_leaves_one_on_each_side(n: int, share: float, held: int) -> None:
    assert len(heldout_split(map(str, range(n)), share)) == held


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, float("nan")])
def test_heldout_split_refuses_other_shares(share: float) -> None:
    with pytest.raises(InputError, match=r"rollouts\.holdout: expected a share"):
        heldout_split(["a", "b"], share)


def test_heldout_split_refuses_a_single_problem() -> None:
    with pytest.raises(InputError, match=r"rollouts\.holdout: 1 problem cannot be split"):
        heldout_split(["a", "a"], 0.1)


# --- real files ------------------------------------------------------------------------------------------------------


def test_the_real_gsm8k_rollouts() -> None:
    frame = read_rollouts(real_data("gsm8k/model_solutions.jsonl"))
    assert frame.group_by("problem_id").len()["len"].unique().to_list() == [4]
    with real_data("gsm8k/test.jsonl").open(encoding="utf-8") as lines:
        official = [json.loads(line)["answer"].rsplit("#### ", 1)[1].replace(",", "") for line in lines]
    assert frame["answer"].gather_every(4).to_list() == official
    found = describe(frame)
    assert (found["problems"], found["rows"], found["given_rewards"], found["mixed_groups"]) == (1319, 5276, 5276, 731)
    # The four systems' accuracies on the test set, counted from the labels: 2001 of 5276.
    assert found["correct_share"] == 2001 / 5276


def test_the_real_math_rollouts() -> None:
    found = describe(read_rollouts(real_data("rollouts_math/qwen25math_100x8.jsonl")))
    assert (found["problems"], found["rows"], found["k_min"], found["k_max"]) == (100, 800, 8, 8)
    assert (found["correct_share"], found["mixed_groups"]) == (0.91, 10)
