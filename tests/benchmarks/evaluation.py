"""One mixed pass (the base and every adapter side by side in a batch) against evaluating the models one after another.

    python -m tests.benchmarks.evaluation STUDY_FOLDER [--problems 400] [--batch-size 512] [--repeats 3]

STUDY_FOLDER: a finished study's report folder; its base and adapters are in the state folder ($COLINEAR_HOME). Both
ways run in this process, on the same problems, models loaded anew each time, in turn; one thread, as a study's slots
have. "Merged" is the fastest way to ask one model: the adapter added to the weights.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import polars as pl
import torch

from tasks.core.results import ArtifactRef, LocalBase, RunInfo
from tasks.core.sections import EvaluationSpec
from tasks.evaluation.evaluate import Asked, collect, evaluate_models
from tasks.models.generate import generate
from tasks.models.load import load_model
from tasks.models.score import sequence_nll
from tasks.models.turn import open_turn
from tasks.storage.store import open_store
from tasks.workers.devices import describe_machine


def artifacts(study: Path) -> tuple[Path, Path, list[tuple[RunInfo, Path]]]:
    """(base, problems.parquet, adapters) of a finished study, out of the store."""
    record = json.loads((study / "study.json").read_text())
    names = {info.label: info for info in (RunInfo(**one) for one in record["runs"])}
    store, found, adapters = open_store(), {}, []
    for run in store._runs("tags.`cache.complete` = '1'"):  # the newest first
        tags = run.data.tags
        ref = ArtifactRef(f"{run.info.artifact_uri}/output", tags["cache.manifest"], tags["stage"], run.info.run_id)
        if tags["stage"] in ("pretrain", "problems"):
            found.setdefault(tags["stage"], ref)
        elif tags["stage"] == "train" and run.info.run_name.removeprefix("train ") in names:
            adapters.append((names.pop(run.info.run_name.removeprefix("train ")), store.local(ref) / "adapter"))
    return store.local(found["pretrain"]) / "student", store.local(found["problems"]) / "problems.parquet", adapters


def mixed(base: Path, problems: Path, asked: list[Asked], spec: EvaluationSpec, out: Path) -> dict[str, pl.DataFrame]:
    """All models in one pass, by the engine."""
    partials = [out / one.info.run for one in asked]
    for partial in partials:
        partial.mkdir(parents=True)
    evaluate_models(
        base=LocalBase(base), asked=asked, partials=partials, problems=problems, spec=spec, share=(0, 1),
    )  # fmt: skip
    return {
        one.info.run: collect(partial, pl.read_parquet(problems)) for one, partial in zip(asked, partials, strict=True)
    }


def one_after_another(base: Path, problems: Path, asked: list[Asked], spec: EvaluationSpec) -> dict[str, list[str]]:
    """Each adapter merged, answering and scored by itself; without grading, which both ways share."""
    turn = open_turn(base)
    frame = pl.read_parquet(problems)
    prompts = [turn.prompt(question) for question in frame["question"]]
    targets = [turn.answer(solution) for solution in frame["solution"]]
    ids = {"pad_id": turn.tokenizer.pad_token_id, "batch_size": spec.batch_size}
    answers = {}
    for one in asked:
        model = load_model(base, adapter=one.adapter)
        found = generate(model, prompts, end_ids=turn.end_ids, max_new_tokens=spec.max_new_tokens, **ids)
        sequence_nll(model, prompts, targets, **ids)
        answers[one.info.run] = [turn.text(answer.ids) for answer in found]
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--problems", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    base, problems, adapters = artifacts(options.study)
    asked = [Asked(RunInfo("base", "base", 0, 0, 0.0)), *(Asked(info, folder) for info, folder in adapters)]
    spec = EvaluationSpec(batch_size=options.batch_size)
    seconds: dict[str, list[float]] = {"mixed": [], "one after another": []}
    with tempfile.TemporaryDirectory() as folder:
        some = Path(folder) / "problems.parquet"
        pl.read_parquet(problems).filter(split="heldout").head(options.problems).write_parquet(some)
        for turn in range(options.repeats):
            began = time.perf_counter()
            together = mixed(base, some, asked, spec, Path(folder) / str(turn))
            seconds["mixed"].append(time.perf_counter() - began)
            began = time.perf_counter()
            apart = one_after_another(base, some, asked, spec)
            seconds["one after another"].append(time.perf_counter() - began)
    same = sum(
        mine == theirs
        for run, answers in apart.items()
        for mine, theirs in zip(together[run]["completion"], answers, strict=True)
    )
    total = options.problems * len(asked)
    print(
        f"{describe_machine()}, one thread; load {os.getloadavg()[0]:.1f}; {len(asked)} models, n = {options.repeats}"
    )
    for name, times in seconds.items():
        print(f"{name:18} {statistics.median(times):6.1f} s   {total / statistics.median(times):6.0f} answers/s")
    ratio = statistics.median(a / b for a, b in zip(seconds["one after another"], seconds["mixed"], strict=True))
    print(f"mixed is {ratio:.2f} times as fast; {same} of {total} answers are the same text")


if __name__ == "__main__":
    main()
