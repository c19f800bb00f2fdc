"""Item-level logs of other tools, in pairs: what is read of each layout, what is refused, and hand-worked numbers."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from tasks.core.errors import InputError
from tasks.core.frames import ITEMS
from tasks.evaluation.logs import Columns, Log, read_logs
from tasks.evaluation.mcnemar import mcnemar
from tasks.evaluation.paired import Compared, _sign_flips, compare_logs


def lines(file: Path, rows: list[dict[str, Any]]) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def harness(doc: int, right: float, of_filter: str = "strict-match") -> dict[str, Any]:
    """A line of ``lm_eval --log_samples`` on gsm8k, shortened."""
    return {
        "doc_id": doc, "doc": {"question": f"q{doc}", "answer": "#### 1"}, "target": "#### 1",
        "arguments": {"gen_args_0": {"arg_0": "q", "arg_1": {"until": ["Question:"]}}}, "resps": [["1"]],
        "filtered_resps": ["1"], "filter": of_filter, "metrics": ["exact_match"], "doc_hash": "d", "prompt_hash": "p",
        "target_hash": "t", "exact_match": right,
    }  # fmt: skip


def rights(log: Log) -> dict[str, list[bool]]:
    return {key: own["correct"].to_list() for (key,), own in log.answers.group_by("problem_id", maintain_order=True)}


def model(name: str, right: list[bool], samples: int = 1) -> Log:
    ids = [f"p{i // samples}" for i in range(len(right))]
    places = [i % samples for i in range(len(right))]
    return Log(name, "test", pl.DataFrame({"problem_id": ids, "sample": places, "correct": right}))


# --- layouts ---------------------------------------------------------------------------------------------------------


def test_the_harness_writes_a_line_for_each_filter_and_one_filter_is_read(tmp_path: Path) -> None:
    rows = [harness(0, 0.0), harness(1, 1.0)] + [harness(i, 1.0, "flexible-extract") for i in (0, 1)]
    file = lines(tmp_path / "org__model" / "samples_gsm8k_2026-01-01T00-00-00.jsonl", rows)
    (log,) = read_logs(file)
    assert (log.model, log.tool, rights(log)) == ("org__model", "lm-evaluation-harness", {"0": [False], "1": [True]})
    assert log.notes == (
        "read by the filter strict-match, the file's first; --filter takes another (flexible-extract)",
    )
    assert log.measure == "exact_match, filter strict-match"
    (other,) = read_logs(f"mine={file}", Columns(filter="flexible-extract"))
    assert (other.model, rights(other)) == ("mine", {"0": [True], "1": [True]})
    with pytest.raises(InputError, match="--filter 'none': the log has 'strict-match', 'flexible-extract'"):
        read_logs(file, Columns(filter="none"))


@pytest.mark.parametrize("packed", [True, False])
def test_inspects_epochs_are_samples_and_what_was_not_scored_is_counted(tmp_path: Path, packed: bool) -> None:
    samples = [
        {"id": name, "epoch": epoch, "scores": {"match": {"value": value}} if value else None}
        for name, epoch, value in (
            ("a", 1, "C"), ("a", 2, "I"), ("b", 1, "C"), ("b", 2, "N"), ("c", 1, None), ("d", 1, math.nan),
        )
    ]  # fmt: skip
    if packed:
        file = tmp_path / "log.eval"
        with zipfile.ZipFile(file, "w") as out:
            out.writestr("header.json", "{}")
            for one in samples:
                out.writestr(f"samples/{one['id']}_epoch_{one['epoch']}.json", json.dumps(one))
    else:
        file = tmp_path / "log.json"
        file.write_text(json.dumps({"version": 2, "status": "success", "eval": {"model": "m"}, "samples": samples}))
    (log,) = read_logs(str(file))
    assert (log.tool, rights(log)) == ("inspect", {"a": [True, False], "b": [True, False]})
    assert log.notes == ("2 samples without a score (an error, or the run ended early) left out",)
    assert log.measure == "match"


def zstd_zip(file: Path, entries: dict[str, bytes]) -> None:
    """As inspect packs its logs: zip entries of method 93, which Python 3.11 neither writes nor reads."""
    with zipfile.ZipFile(file, "w") as out:
        for name, content in entries.items():
            out.writestr(name, pa.Codec("zstd").compress(content, asbytes=True))
    raw, sizes = bytearray(file.read_bytes()), [len(content) for content in entries.values()]
    for mark, method, size in ((b"PK\x03\x04", 8, 22), (b"PK\x01\x02", 10, 24)):  # local header, central directory
        at = -1
        for content in sizes:
            at = raw.index(mark, at + 1)
            raw[at + method : at + method + 2] = (93).to_bytes(2, "little")
            raw[at + size : at + size + 4] = content.to_bytes(4, "little")
    file.write_bytes(raw)


def test_logs_that_inspect_packed_by_zstd_are_read(tmp_path: Path) -> None:
    """inspect 0.3.285 does so; a damaged one is refused in one line."""
    samples = [{"id": name, "epoch": 1, "scores": {"match": {"value": v}}} for name, v in (("a", "C"), ("b", "I"))]
    file = tmp_path / "x.eval"
    zstd_zip(file, {f"samples/{one['id']}_epoch_1.json": json.dumps(one).encode() for one in samples})
    (log,) = read_logs(str(file))
    assert rights(log) == {"a": [True], "b": [False]}
    raw = bytearray(file.read_bytes())
    raw[60:70] = bytes(10)
    file.write_bytes(raw)
    with pytest.raises(InputError, match=r"x\.eval: not a readable log of inspect"):
        read_logs(str(file))


def test_lightevals_details_and_qwens_scores(tmp_path: Path) -> None:
    details = tmp_path / "m" / "details_math.parquet"
    details.parent.mkdir()
    metrics = [{"extractive_match": 1.0}, {"extractive_match": 0.0}]
    pl.DataFrame({"doc": [{"id": "7"}, {"id": "8"}], "metric": metrics}).write_parquet(details)
    (log,) = read_logs(str(details))
    assert (log.model, log.tool, rights(log)) == ("m", "lighteval", {"7": [True], "8": [False]})
    file = lines(tmp_path / "q.jsonl", [{"idx": 3, "gt": "1", "pred": ["1", "2"], "score": [True, False]}])
    (log,) = read_logs(file)
    assert (log.tool, rights(log), log.samples) == ("Qwen2.5-Math", {"3": [True, False]}, 2)


@pytest.mark.parametrize("printed", [False, True])
def test_lightevals_details_of_earlier_versions(tmp_path: Path, printed: bool) -> None:
    """Up to 0.8: ``example`` and ``metrics``, no id; where a table did not fit the file, as Python prints it."""
    folder = tmp_path / "org" / "m" / "2024-05-01T10-00-00.123456"
    folder.mkdir(parents=True)
    rows = [{"example": f"question {i}", "metrics": {"em": right, "f1": 0.5}} for i, right in enumerate((1.0, 0.0))]
    frame = pl.DataFrame([row | {"metrics": str(row["metrics"])} for row in rows] if printed else rows)
    frame.write_parquet(folder / "details_gsm8k_2024.parquet")
    (log,) = read_logs(str(folder / "details_gsm8k_2024.parquet"))
    assert (log.model, log.tool, log.measure, rights(log)) == ("m", "lighteval", "em", {"0": [True], "1": [False]})


def test_our_own_items_are_one_model_for_each_run(tmp_path: Path) -> None:
    base = {name: None for name in ITEMS} | {"method": "sft", "benchmark": "heldout", "problem_id": "a", "sample": 0}
    rows = [base | {"run": run, "correct": right} for run, right in (("base", True), ("sft", False))]
    rows.append(base | {"run": "sft", "sample": 1, "correct": True})
    pl.DataFrame(rows, schema=ITEMS).write_parquet(tmp_path / "items.parquet")
    found = read_logs(str(tmp_path))
    assert [(log.model, rights(log)) for log in found] == [("base", {"a": [True]}), ("sft", {"a": [False]})]
    assert found[0].notes == ("1 drawn answers left out: the greedy ones are compared",)
    assert [log.model for log in read_logs(f"s={tmp_path}")] == ["s/base", "s/sft"]


def test_named_columns_and_graded_answers(tmp_path: Path) -> None:
    rows = [{"q": "a", "ok": 1, "said": r"It is \boxed{1/2}", "gold": "0.5"}]
    rows.append({"q": "b", "ok": 0, "said": r"\boxed{3}", "gold": "4"})
    file = lines(tmp_path / "x.jsonl", rows)
    (log,) = read_logs(file, Columns(id="q", correct="ok"))
    assert rights(log) == {"a": [True], "b": [False]}
    (graded,) = read_logs(file, Columns(id="q", answer="said", reference="gold"))
    assert rights(graded) == {"a": [True], "b": [False]}
    assert graded.notes == ("graded by colinear's grader",)


def test_lines_that_are_there_twice_are_counted_and_the_first_counts(tmp_path: Path) -> None:
    """1,349 lines for 1,319 ids, as a resumed run left them; two of the thirty say something else."""
    ids = [*range(1319), *range(30)]
    rows = [{"id": i, "ok": place < 1319 or i > 1} for place, i in enumerate(ids)]
    (log,) = read_logs(lines(tmp_path / "x.jsonl", rows), Columns(id="id", correct="ok"))
    assert log.answers.height == 1319
    assert log.answers["correct"].all()
    assert log.notes == (
        "30 lines more than answers: 30 ids are there twice (0, 1, 2, ...), 2 of them with another verdict; the first "
        "counts",
    )
    even = [{"id": i, "ok": bool(i)} for i in (0, 1, 0, 1)]  # every id as often: samples
    (sampled,) = read_logs(lines(tmp_path / "y.jsonl", even), Columns(id="id", correct="ok"))
    assert sampled.samples == 2
    assert sampled.notes == (
        "every id is there 2 times: read as 2 samples of each problem; if the file was written twice, or by several "
        "filters, give one of them",
    )


# --- pairs -----------------------------------------------------------------------------------------------------------


def test_a_pair_by_hand() -> None:
    """100 problems: 10 solved only by a, 2 only by b. Exact p: 2 (1 + 12 + 66) / 2^12."""
    a = model("a", [True] * 50 + [True] * 10 + [False] * 2 + [False] * 38)
    b = model("b", [True] * 50 + [False] * 10 + [True] * 2 + [False] * 38)
    found = compare_logs([a, b])
    (pair,) = found.pairs
    assert (pair.n, pair.only_a, pair.only_b, pair.difference) == (100, 10, 2, pytest.approx(8.0))
    assert pair.p == pytest.approx(2 * (1 + 12 + 66) / 2**12)
    assert pair.p_mid == pytest.approx(pair.p - 66 / 2**12)
    assert pair.p_holm == pair.p
    assert pair.low < 8 < pair.high
    assert pair.verdict == "differs"
    assert [(m.model, m.n, m.accuracy) for m in found.models] == [("a", 100, 60.0), ("b", 100, 52.0)]


def test_verdicts_need_an_interval_within_the_margin_or_a_test() -> None:
    same = [True, False] * 1000
    swapped = [*same]
    swapped[0], swapped[1] = False, True
    pair = compare_logs([model("a", same), model("b", swapped)], margin=1).pairs[0]
    assert (pair.difference, pair.verdict) == (0.0, "equal within 1 point")
    assert compare_logs([model("a", same[:20]), model("b", swapped[:20])]).pairs[0].verdict == "no power"


def test_holm_is_over_all_pairs_of_the_call_and_swapping_two_logs_turns_the_signs() -> None:
    random = np.random.default_rng(0)
    logs = [model(name, list(random.random(300) < share)) for name, share in (("a", 0.5), ("b", 0.6), ("c", 0.7))]
    found = compare_logs(logs)
    from tasks.evaluation.intervals import holm

    assert [p.p_holm for p in found.pairs] == pytest.approx(list(holm([p.p for p in found.pairs])))
    assert [p.p for p in found.pairs] == [mcnemar(p.only_a, p.only_b).p_value for p in found.pairs]
    (one,), (turned,) = compare_logs(logs[:2]).pairs, compare_logs(logs[1::-1]).pairs
    assert (one.difference, one.low, one.high, one.p) == pytest.approx(
        (-turned.difference, -turned.high, -turned.low, turned.p)
    )


def test_samples_of_a_problem_stay_together() -> None:
    """Four samples each of 60 problems; a solves all of 10 problems that b never does, else they are alike."""
    a = model("a", [True] * 40 + [False] * 200, samples=4)
    b = model("b", [False] * 240, samples=4)
    found = compare_logs([a, b])
    (pair,) = found.pairs
    assert (pair.n, pair.only_a, pair.only_b, pair.p_mid, pair.detectable) == (60, 10, 0, None, None)
    assert pair.difference == pytest.approx(100 * 10 / 60)
    assert pair.p == pytest.approx(2 / 2**10, abs=1.5e-3)  # the exact sign-flip test: all ten on one side
    assert (found.models[0].k, found.models[0].pass_at_k) == (4, pytest.approx(100 * 10 / 60))


def test_the_sign_flip_test_is_the_exact_one_where_that_can_be_counted() -> None:
    """Differences 1, 1, 1, -1 and zeros: |sum| >= 2 for 10 of 16 signs."""
    assert _sign_flips(np.array([1, 1, 1, -1, 0, 0.0]), seed=1) == pytest.approx(10 / 16, abs=0.02)
    assert _sign_flips(np.zeros(5), seed=1) == 1.0


def test_what_only_one_answered_is_told(tmp_path: Path) -> None:
    a, b = model("a", [True] * 10), model("b", [True] * 8)
    found: Compared = compare_logs([a, b])
    assert found.pairs[0].n == 8
    assert found.notes == ("a, b: test", "a and b: 8 problems in common, 2 answered by only one of them")


# --- an id is not a problem ------------------------------------------------------------------------------------------


def asked(task: str, doc: int, right: float) -> dict[str, Any]:
    return harness(doc, right) | {"doc": {"question": f"{task} {doc}", "choices": ["yes", "no"]}}


def test_logs_of_two_benchmarks_that_number_alike_are_refused(tmp_path: Path) -> None:
    """lm-evaluation-harness numbers every task's documents from 0."""
    logs = [
        read_logs(lines(tmp_path / task / "samples_x.jsonl", [asked(task, i, 1.0) for i in range(9)]))[0]
        for task in ("gsm8k", "arc")
    ]
    with pytest.raises(InputError, match=r"gsm8k and arc: 9 of 9 common ids are other problems \(such as 0\)"):
        compare_logs(logs)


def test_a_few_other_problems_are_left_out_and_shuffled_choices_are_none(tmp_path: Path) -> None:
    rows = [asked("t", i, 1.0) for i in range(10)]
    changed = [asked("t", i, float(i > 2)) for i in range(10)]
    changed[0]["doc"] = {"question": "corrected 0", "choices": ["yes", "no"]}
    changed[1]["doc"]["choices"] = ["no", "yes"]
    one, two = (read_logs(lines(tmp_path / f"{n}.jsonl", own))[0] for n, own in (("a", rows), ("b", changed)))
    found = compare_logs([one, two])
    assert (found.pairs[0].n, found.pairs[0].only_a) == (9, 2)
    (warning,) = found.warnings
    assert warning.startswith("a and b: 1 ids are other problems in one than in the other (such as 0)")


def test_one_file_with_two_benchmarks_is_refused(tmp_path: Path) -> None:
    """Else each id would be read as two samples of one problem."""
    file = lines(tmp_path / "x.jsonl", [asked(task, i, 1.0) for task in ("gsm8k", "arc") for i in range(5)])
    with pytest.raises(InputError, match="the id '0' is two problems: give a file for each benchmark"):
        read_logs(file)


def test_other_measures_are_warned_of(tmp_path: Path) -> None:
    rows = [harness(i, 1.0, of) for of in ("strict-match", "flexible-extract") for i in range(4)]
    file = lines(tmp_path / "x.jsonl", rows)
    (strict,), (flexible,) = read_logs(f"a={file}"), read_logs(f"b={file}", Columns(filter="flexible-extract"))
    (warning,) = compare_logs([strict, flexible]).warnings
    assert "a by exact_match, filter strict-match" in warning
    assert "b by exact_match, filter flexible-extract" in warning
    assert compare_logs([strict, Log("c", strict.tool, strict.answers, (), strict.measure)]).warnings == ()


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("logs", "margin", "said"),
    [
        ([model("a", [True])], 2.0, "1 model: give the logs of at least two"),
        ([model("a", [True]), model("a", [True])], 2.0, "two logs are called a: give each a name"),
        ([model("a", [True]), model("b", [True])], 0.0, "--margin 0: points of accuracy, above 0 and below 100"),
        (
            [model("a", [True]), Log("b", "", pl.DataFrame({"problem_id": ["x"], "sample": [0], "correct": [True]}))],
            2.0, r"a and b have no problem in common \(ids such as p0, x\)",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(logs: list[Log], margin: float, said: str) -> None:
    with pytest.raises(InputError, match=said):
        compare_logs(logs, margin)


@pytest.mark.parametrize(
    ("row", "columns", "said"),
    [
        ({"id": 1, "ok": 0.5}, Columns(id="id", correct="ok"), "expected right or wrong .* got 0.5"),
        ({"id": 1, "ok": 1}, Columns(id="id"), "--id needs --correct beside it"),
        ({"id": 1, "ok": 1}, Columns(id="id", correct="no"), "the log has no column 'no'; it has 'id', 'ok'"),
        ({"id": 1, "ok": 1}, Columns(), "not a log of lm-evaluation-harness, .*name its columns: --id COLUMN"),
        (harness(0, 1.0), Columns(metric="acc"), "--metric 'acc': .* has 'exact_match'"),
    ],
)  # fmt: skip
def test_a_log_that_cannot_be_read_says_how(tmp_path: Path, row: Any, columns: Columns, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_logs(lines(tmp_path / "x.jsonl", [row]), columns)


def test_files_that_are_no_logs(tmp_path: Path) -> None:
    (tmp_path / "x.eval").write_bytes(b"PK no zip")
    with pytest.raises(InputError, match="not a readable log of inspect"):
        read_logs(str(tmp_path / "x.eval"))
    with pytest.raises(InputError, match="no such log"):
        read_logs(str(tmp_path / "none.jsonl"))
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(InputError, match="it has no rows"):
        read_logs(str(tmp_path / "empty.jsonl"))
