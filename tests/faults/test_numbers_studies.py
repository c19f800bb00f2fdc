"""Whole studies of numbers that nobody hopes for: each ends in a page that says what they are, or in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.torch import load_file, save_file

from tasks.reporting.formats import significant
from tests.faults.numbers import check_in_browser, check_page, check_words, study, sums, write_rows
from tests.lab.adapters import adapter, compare, dense
from tests.lab.browsing import launched
from tests.lab.frames import of_pairs
from tests.lab.study_runs import Lab, Study

pytestmark = pytest.mark.faults

STRANGE_ID = "日本\x00<b>\u202e1"


def odd_rows() -> list[dict[str, Any]]:
    """1,000 completions of one problem, empty ones, single tokens, too long ones, no ASCII, control characters."""
    gold = {"answer": "2"}
    many = [
        {"problem_id": "many", "prompt": "1 + 1?", "completion": str(2 + i % 2), "reward": 1 - i % 2, **gold}
        for i in range(1000)
    ]
    empty = {"problem_id": "empty", "prompt": "nothing?", "completion": "", **gold}
    one = {"problem_id": "one", "prompt": "7?", "answer": "8"}
    strange = {"problem_id": STRANGE_ID, "prompt": "½ ≤ 1? \x07", "answer": "\\frac{1}{2}"}
    return [
        *many,
        {**empty, "reward": 0},
        {**empty, "reward": 1},
        {**empty, "reward": 0, "finish_reason": "length"},  # not even an end: no token
        {**one, "completion": "7", "reward": 0, "finish_reason": "length"},
        {**one, "completion": "8", "reward": 1, "logprobs": [-0.5, -0.25]},
        *({"problem_id": "long", "prompt": "x?", "completion": "x" * 100, "reward": i, **gold} for i in (0, 1)),
        {**strange, "completion": "日本語 ½ 👩‍🚀 \u202e\u05d0", "reward": 1},
        {**strange, "completion": "\x00\x07\x1b[31m\x7f\x85", "reward": 0},
    ]


Run = Callable[[Lab, Path], Study]


def odd(lab: Lab, base: Path) -> Study:
    asked = [{"question": "2 + 2? \u202e½", "answer": "4", "problem_id": STRANGE_ID}]
    lab.home.parent.mkdir(parents=True, exist_ok=True)
    problems = write_rows(lab.home.parent / "one\u202e-problem.jsonl", asked)
    return study(
        lab, "odd", base, odd_rows(), "methods=sft,dft,rift,offline_grpo,dpo,kto", "paths.n=0",
        f"evaluation.problems={problems}",
    )  # fmt: skip


def right(lab: Lab, base: Path) -> Study:
    return study(lab, "right", base, sums(range(6), 1), "methods=sft,rft,rift")


def wrong(lab: Lab, base: Path) -> Study:
    return study(lab, "wrong", base, sums(range(8), 0, 0), "methods=sft,rift,offline_grpo", "offline_grpo.bias=none")


def huge(lab: Lab, base: Path) -> Study:
    rates = ("train.lr=0.9", "sft.lr_ratio=100", "dft.lr_ratio=100", "train.steps=12")
    return study(lab, "huge", base, sums(range(8), 1, 0), "methods=sft,dft", *rates)


def still(lab: Lab, base: Path) -> Study:
    return study(lab, "still", base, sums(range(4), 1), "methods=sft", "train.lr=1e-300", "train.steps=1")


def single(lab: Lab, base: Path) -> Study:
    return study(lab, "single", base, sums(range(2), 1), "methods=sft", "replicates=sft")


STUDIES: dict[str, Run] = {one.__name__: one for one in (odd, right, wrong, huge, still, single)}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("numbers") / "home")


@pytest.fixture(scope="module")
def ran(base_model: Path, lab: Lab) -> Callable[[str], Study]:
    """A study by its name, run once; all in one store."""

    @cache
    def run(name: str) -> Study:
        found = STUDIES[name](lab, base_model)
        assert found.code == 0, found.stderr[-4000:]
        assert "Traceback" not in found.stdout + found.stderr
        assert "Warning" not in found.stderr
        return found

    return run


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as chromium:
        yield chromium


@pytest.mark.parametrize("name", STUDIES)
def test_no_page_shows_what_is_no_number_or_judges_from_nothing(
    ran: Callable[[str], Study], tmp_path: Path, name: str
) -> None:
    check_page(ran(name).folder, tmp_path / "again")


@pytest.mark.parametrize("width", [1280, 390])
def test_every_page_works_in_a_browser(ran: Callable[[str], Study], browser: Any, width: int) -> None:
    for name in STUDIES:
        check_in_browser(browser, ran(name).folder / "report.html", width)


def said(found: Study) -> str:
    return "\n".join([*found.record["warnings"], *found.record["headline"], *found.record["notes"]])


def counts(found: Study) -> dict[str, str]:
    """The table of rollouts, as the Markdown has it."""
    text = (found.folder / "report.md").read_text()
    table = text[text.index("### Rollouts") :].split("\n\n")[1]
    rows = (line.strip("| ").split(" | ") for line in table.splitlines()[2:])
    return {row[0]: row[1] for row in rows}


def whole(folder: Path, metric: str) -> dict[tuple[str, str], float | None]:
    return of_pairs(pl.read_parquet(folder / "pair_metrics.parquet"), metric)


def test_odd_completions_are_trained_on_or_dropped_and_counted(ran: Callable[[str], Study]) -> None:
    found = ran("odd")
    told = counts(found)
    assert told["Rows"] == "1006"
    assert told["Dropped: longer than model.max_length"] == "2 (0.2 %)"
    assert told["Dropped: no token of a prompt, or of a completion that was cut"] == "1 (0.1 %)"
    assert told["Empty"] == "2"
    assert told["Completions labelled right and wrong for one problem"] == "2 (0.2 %)"
    assert told["Completions of one token"] == "3 (0.3 %)"
    assert told["Completions with control characters"] == "1 (0.1 %)"
    assert told["Completions equal to an earlier one of their problem"] == "999 (99.3 %)"
    assert "2 rows of the rollouts with characters that the tokenizer does not know" in said(found)
    assert "Fewer examples than train.batch_size (8)" in said(found)  # DPO: 4 pairs of the many, 1 of each other
    losses = pl.read_parquet(found.folder / "training.parquet").filter(metric="loss")
    assert losses["run"].n_unique() == 6
    assert losses["value"].is_finite().all()


def test_a_single_problem_gives_no_interval_where_it_cannot(ran: Callable[[str], Study]) -> None:
    found = ran("odd")
    accuracy = pl.read_parquet(found.folder / "accuracy.parquet")
    assert accuracy["n"].to_list() == [1] * 7
    assert set(pl.read_parquet(found.folder / "mcnemar.parquet")["verdict"]) == {"no power"}
    cka = pl.read_parquet(found.folder / "cka.parquet")
    assert cka["value"].null_count() == cka.height
    assert "debiased CKA needs 4 rows, there are 1" in (found.folder / "report.md").read_text()
    assert pl.read_parquet(found.folder / "divergence.parquet")["low"].null_count() == 42


def test_where_all_is_right_three_methods_are_one(ran: Callable[[str], Study]) -> None:
    found = ran("right")
    assert "Every rollout is correct (5 of 5)" in said(found)
    assert "One and the same update: sft, rft and rift." in said(found)
    assert whole(found.folder, "cosine") == {
        pair: pytest.approx(1.0, abs=1e-12) for pair in whole(found.folder, "cosine")
    }
    barriers = pl.read_parquet(found.folder / "barriers.parquet")
    assert barriers["barrier"].max() < 1e-6  # nats a token, of 4.6: the rounding of float32 weights
    assert barriers["low"].null_count() == barriers.height  # one problem
    claims = {one["id"]: one for one in json.loads((found.folder / "claims.json").read_text())}
    assert claims["cosine-sft-rft"]["verdict"] == "not measured"
    assert claims["cosine-sft-rft"]["detail"] == "sft and rft have one and the same update"


def test_where_all_is_wrong_that_is_said_and_no_advantage_is_no_update(ran: Callable[[str], Study]) -> None:
    found = ran("wrong")
    assert "No rollout is correct (0 of 14)" in said(found)
    assert "The update of 1 run is zero: offline_grpo has no direction to compare, and it is still the base." in said(
        found
    )
    assert whole(found.folder, "cosine")[("sft", "offline_grpo")] is None
    assert whole(found.folder, "cosine")[("sft", "rift")] < 0  # away from what SFT imitates
    assert "undefined (zero update)" in (found.folder / "report.html").read_text()
    assert "No norm-matched path, since an update is zero or not finite" in said(found)


def test_a_learning_rate_a_thousand_times_too_high_is_a_finite_result_with_a_warning(
    ran: Callable[[str], Study],
) -> None:
    found = ran("huge")
    assert "The update is larger than the weights that it is added to: sft (" in said(found)
    norms = pl.read_parquet(found.folder / "spectra.parquet").filter(metric="norm", module="*")
    assert norms["value"].min() > 1e3
    assert norms["value"].is_finite().all()


def test_one_method_that_did_not_move_is_a_page_without_pairs(ran: Callable[[str], Study]) -> None:
    found = ran("still")
    assert "The update of 1 run is zero: sft has no direction" in said(found)
    assert pl.read_parquet(found.folder / "pair_metrics.parquet").is_empty()
    items = pl.read_parquet(found.folder / "items.parquet")
    answers = {run: own["completion"].to_list() for (run,), own in items.group_by("run")}
    assert answers["sft"] == answers["base"]


def test_one_rollout_in_two_orders_measures_no_floor(ran: Callable[[str], Study]) -> None:
    found = ran("single")
    assert "One and the same update: sft and sft-order1." in said(found)
    assert "Fewer examples than train.batch_size (8)" in said(found)
    assert found.record["noise_floor"]["cosine"] is None
    assert "runs of one method have one and the same update" in (found.folder / "report.md").read_text()


def test_the_page_over_these_studies_works_as_well(ran: Callable[[str], Study], lab: Lab, browser: Any) -> None:
    for name in STUDIES:
        ran(name)
    words = [str(lab.home.parent / name) for name in STUDIES]
    found = lab.run(*words, "--no-across", out="many", command="report")
    assert found.code == 0, found.stderr[-4000:]
    assert "Warning" not in found.stderr
    check_words(found.folder)
    for width in (1280, 390):
        check_in_browser(browser, found.folder / "report.html", width)


def test_adapters_of_any_size_are_compared_as_they_are(browser: Any, tmp_path: Path) -> None:
    """Both factors times 1e15 and 1e-15, in half precisions, and a zero update: every cosine is the definition's."""
    names = [adapter(tmp_path / name, seed).name for seed, name in enumerate(("sft", "dpo"))]
    stored = load_file(tmp_path / "sft" / "adapter_model.safetensors")
    changes: dict[str, Callable[[str, Any], Any]] = {
        "huge": lambda _, tensor: tensor * 1e15,
        "tiny": lambda _, tensor: tensor * 1e-15,
        "brain": lambda _, tensor: tensor.bfloat16(),
        "half": lambda _, tensor: tensor.half(),
        "zero": lambda name, tensor: tensor * ("lora_A" in name),
    }
    for name, change in changes.items():
        shutil.copytree(tmp_path / "sft", tmp_path / name)
        changed = {key: change(key, tensor) for key, tensor in stored.items()}
        save_file(changed, tmp_path / name / "adapter_model.safetensors")
        names.append(name)
    done = compare(*names, "--plain", "--out", "page", folder=tmp_path, home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    check_words(tmp_path / "page")
    found = whole(tmp_path / "page", "cosine")
    vectors = {name: dense(tmp_path / name) for name in ("sft", "dpo", "huge", "tiny", "half")}
    for (a, b), value in found.items():
        if "zero" in (a, b):
            assert value is None
        elif a in vectors and b in vectors:
            one, other = (vectors[name] / np.linalg.norm(vectors[name]) for name in (a, b))
            assert value == pytest.approx(one @ other, abs=1e-12)
    assert found["sft", "brain"] == pytest.approx(1, abs=1e-4)
    text = (tmp_path / "page" / "report.md").read_text()
    for name in ("huge", "tiny"):  # 3.05×10³² and the like
        assert significant(float(np.linalg.norm(dense(tmp_path / name)))) in text
    assert "Identical adapters: sft, huge" not in text  # one direction, other sizes
    for width in (1280, 390):
        check_in_browser(browser, tmp_path / "page" / "report.html", width)


def poisoned(base: Path, folder: Path) -> Path:
    """A copy of ``base`` with one NaN among its weights."""
    shutil.copytree(base, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_base_with_nan_and_weights_that_overflow_end_a_study_in_one_line(base_model: Path, tmp_path: Path) -> None:
    lab, rows = Lab(tmp_path / "home"), sums(range(4), 1, 0)
    bad = study(lab, "nan", poisoned(base_model, tmp_path / "poisoned"), rows, "methods=sft")
    (line,) = [line for line in bad.stderr.splitlines() if "diverged" in line]
    assert bad.code == 1
    assert "training diverged: loss is nan at step 1, before any update: look for NaN in the base's weights" in line
    last = ("methods=sft", "train.steps=1", "train.weight_decay=1e40", "train.lr=0.9")
    over = study(lab, "over", base_model, rows, *last)
    (line,) = [line for line in over.stderr.splitlines() if "diverged" in line]
    assert over.code == 1
    assert "is not finite after step 1, the last; lower train.lr" in line
    assert "Traceback" not in bad.stderr + over.stderr
    assert not (bad.folder / "report.html").exists()
