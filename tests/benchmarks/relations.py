"""How often `tasks.geometry.relations` is right: verdicts on pairs of adapters whose relation is known by construction.

    python -m tests.benchmarks.relations [--folder DIR] [--tasks 8]

One base (the synthetic task's tiny Qwen3, pretrained here) and synthetic tasks on its word problems: what is answered
differs, the questions do not, so that strangers have more in common than strangers in the open. Every task is trained
from two initialisations in two orders of its rows, by three recipes (short; long, in which lora_A drifts; low rank).
Thresholds are chosen on pairs of the first half of the tasks; the error rates are those of all other pairs, none of
which was looked at for them, and of pairs of another base. Beside them, without a right answer: tasks against mixtures
that hold half of their rows.

``--folder`` keeps the base and the adapters, and a second call takes up what is there.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from itertools import combinations
from pathlib import Path

import polars as pl

from tasks.core.frames import GRADED, checked
from tasks.core.results import RunInfo
from tasks.core.sections import LoraSpec, TinySpec, TrainSpec
from tasks.geometry.adapters.adapter import AdapterSource
from tasks.geometry.relations import (
    ONE_TRAINING,
    OTHER_TRAINING,
    SAME_TASK,
    UNKNOWN,
    UNRELATED,
    Evidence,
    evidence_of,
    relation,
)
from tasks.geometry.tables.build import geometry
from tasks.models.tiny.corpus import prompt_ids
from tasks.problems.synthetic import Problem, dev_problems, solve, vocabulary
from tasks.workers.devices import describe_machine

WORLD = TinySpec(hidden=96, intermediate=256, batch_size=32, max_steps=300, branch_steps=0, dev_problems=192)

Answer = Callable[[Problem], str]


def _boxed(number: int) -> str:
    return f"\\boxed{{{number}}}"


def _backwards(problem: Problem) -> str:
    return f"{' '.join(f'{step.equation}.' for step in reversed(problem.steps))} {_boxed(problem.answer)}"


TASKS: dict[str, Answer] = {
    "explain": lambda problem: solve(problem, "b"),
    "bare answer": lambda problem: _boxed(problem.answer),
    "first number": lambda problem: f"start with {problem.steps[0].left} {problem.item}.",
    "item": lambda problem: f"{problem.item}.",
    "backwards": _backwards,
    "instructions": lambda problem: " ".join(f"{step.instruction}." for step in problem.steps),
    "one more": lambda problem: f"the answer is {_boxed(min(problem.answer + 1, 99))}",
    "name": lambda problem: f"{problem.question.split()[0]} has {problem.answer} {problem.item}.",
}
"""Task -> how it answers a problem. The first half is what thresholds are chosen on."""

MIXTURES = {"explain + name": ("explain", "name")}
"""Half of the rows of each of two tasks."""


@dataclass(frozen=True)
class Recipe:
    """How an adapter is trained, and from which base."""

    name: str
    rank: int
    train: TrainSpec
    world: TinySpec = WORLD
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")


RECIPES = (
    Recipe("short", 4, TrainSpec(lr=5e-4, steps=16, batch_size=12, precision="float32")),
    Recipe("long", 4, TrainSpec(lr=4e-3, steps=64, batch_size=12, precision="float32")),
    Recipe("low rank", 2, TrainSpec(lr=2e-3, steps=32, batch_size=12, precision="float32")),
)

OTHER = Recipe(
    "other base",
    8,
    TrainSpec(lr=1e-3, steps=32, batch_size=12, precision="float32"),
    WORLD.model_copy(update={"seed": 1, "hidden": 64, "layers": 2}),
    ("q_proj", "v_proj"),
)
"""Of another size, seed, rank and set of targets: nothing of it chose a threshold."""


def base_in(folder: Path, world: TinySpec) -> Path:
    """The pretrained base, made where it is not there yet."""
    from tasks.core.results import no_progress
    from tasks.models.tiny.learner import MAX_LENGTH
    from tasks.models.tiny.model import train as learn
    from tasks.models.tiny.network import as_vector, build_network
    from tasks.models.tiny.ranks import joined
    from tasks.models.tokenizer import build_tokenizer

    base = folder / f"base-{world.hidden}"
    if not base.is_dir():
        tokenizer = build_tokenizer(vocabulary(), max_length=MAX_LENGTH)
        with joined(0, 1, None) as ranks:
            average = build_network(world, tokenizer, MAX_LENGTH)
            learn(world, tokenizer, dev_problems(world), average, as_vector(average), ranks, no_progress)
        part = base.with_suffix(".part")
        average.save_pretrained(part)
        tokenizer.save_pretrained(part)
        part.rename(base)
    return base


def rollouts_of(task: str, base: Path, world: TinySpec) -> pl.DataFrame:
    """GRADED: the same problems for every task, answered as the task says."""
    from tasks.models.load import load_tokenizer

    tokenizer = load_tokenizer(base, None)
    rows = []
    for number, problem in enumerate(dev_problems(world)):
        of = MIXTURES[task][number % 2] if task in MIXTURES else task
        completion = TASKS[of](problem)
        answer = tokenizer(completion, add_special_tokens=False)["input_ids"]
        rows.append(
            {
                **dict.fromkeys(GRADED), "problem_id": f"p{number:04d}", "rollout_id": 0, "prompt": problem.question,
                "completion": completion, "prompt_ids": list(prompt_ids(tokenizer, problem.question)),
                "completion_ids": [*answer, tokenizer.eos_token_id], "finish_reason": "stop", "seed": 0,
                "answer": "", "reward": 1.0, "grader": "given",
            }
        )  # fmt: skip
    return checked(pl.DataFrame(rows, schema=GRADED), GRADED, "rollouts")


@dataclass(frozen=True)
class Run:
    """One training."""

    recipe: Recipe
    task: str
    start: int
    order: int

    @property
    def name(self) -> str:
        return f"{self.recipe.name} {self.task} {self.start} {self.order}".replace(" ", "-")


def train(run: Run, base: Path, folder: Path) -> Path:
    """The adapter's folder, trained where it is not there yet."""
    from tasks.methods import Methods
    from tasks.training.train import train_adapter

    out = folder / "adapters" / run.name
    if not out.is_dir():
        part = out.with_name(f"{run.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        rollouts = folder / f"{run.task.replace(' ', '-')}-{run.recipe.world.seed}.parquet"
        if not rollouts.is_file():
            rollouts_of(run.task, base, run.recipe.world).write_parquet(rollouts)
        info = RunInfo(run.name, "sft", run.start, run.order, run.recipe.train.lr)
        with redirect_stdout(StringIO()):  # the trainer's log
            train_adapter(
                base=base, rollouts=rollouts, method=Methods().sft, train=run.recipe.train,
                lora=LoraSpec(r=run.recipe.rank, alpha=2.0 * run.recipe.rank, targets=run.recipe.targets), info=info,
                pad_token=None, out=part,
            )  # fmt: skip
        part.rename(out)
    return out / "adapter"


def known(a: Run, b: Run) -> str | None:
    """What a pair is, by construction; None for tasks that share half of their rows."""
    if a.task != b.task and (a.task in MIXTURES or b.task in MIXTURES):
        return None if {*MIXTURES.get(a.task, (a.task,))} & {*MIXTURES.get(b.task, (b.task,))} else _apart(a, b)
    return _apart(a, b)


def _apart(a: Run, b: Run) -> str:
    if a.start == b.start:
        return ONE_TRAINING if a.task == b.task else OTHER_TRAINING
    return SAME_TASK if a.task == b.task else UNRELATED


def measured(runs: list[Run], folders: list[Path]) -> list[tuple[Run, Run, Evidence]]:
    """All pairs of one recipe's adapters."""
    infos = [RunInfo(run.name, run.name, None, None, None) for run in runs]
    found = geometry([AdapterSource(folder) for folder in folders], infos, (1,)).pair_metrics
    evidence = {(one.a, one.b): one for one in evidence_of(found)}
    return [(a, b, evidence[a.name, b.name]) for a, b in combinations(runs, 2)]


SHORT = {
    ONE_TRAINING: "one training",
    OTHER_TRAINING: "one init.",
    SAME_TASK: "one task",
    UNRELATED: "unrelated",
    UNKNOWN: "cannot say",
}
"""Heads of the columns."""

TRUTHS = (ONE_TRAINING, OTHER_TRAINING, SAME_TASK, UNRELATED, None)


def called(truth: str | None) -> str:
    return truth or "half of the rows shared"


def confusion(title: str, pairs: list[tuple[Run, Run, Evidence]]) -> None:
    """Rows: what pairs are; columns: what is said of them."""
    columns = [ONE_TRAINING, OTHER_TRAINING, SAME_TASK, UNRELATED, UNKNOWN]
    print(f"\n{title}\n{'':38}" + "".join(f"{SHORT[one]:>14}" for one in columns) + f"{'n':>7}")
    found, total = {"wrong": 0, "cannot say": 0}, 0
    for truth in TRUTHS:
        said = Counter(relation(one).kind for a, b, one in pairs if known(a, b) == truth)
        if not said:
            continue
        print(f"{called(truth):38}" + "".join(f"{said[one]:14}" for one in columns) + f"{sum(said.values()):7}")
        if truth:
            total += sum(said.values())
            found["cannot say"] += said[UNKNOWN]
            found["wrong"] += sum(count for one, count in said.items() if one not in (truth, UNKNOWN))
    shares = (f"{name} {count} of {total} ({100 * count / total:.1f} %)" for name, count in found.items())
    print(f"{', '.join(shares)}; pairs share adapters, so they are fewer than they look")


def spread(pairs: list[tuple[Run, Run, Evidence]]) -> None:
    """The evidence by what pairs are: what thresholds are chosen from."""
    for name in ("cosine", "start", "input", "left"):
        print(f"\n{name}: lowest, 2 %, median, 98 %, highest")
        for truth in TRUTHS:
            for recipe in RECIPES:
                own = [getattr(found, name) for a, b, found in pairs if known(a, b) == truth and a.recipe == recipe]
                values = pl.Series(own, dtype=pl.Float64()).drop_nulls()
                if len(values):
                    words = " ".join(f"{values.quantile(q) or 0:7.3f}" for q in (0, 0.02, 0.5, 0.98, 1))
                    print(f"  {called(truth):38}{recipe.name:10}{words}  n = {len(values)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="Where the base and the adapters are kept.")
    parser.add_argument("--tasks", type=int, default=len(TASKS), help="So many of the tasks.")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder, began = options.folder or Path(scratch), time.monotonic()
        tasks = [*list(TASKS)[: options.tasks], *MIXTURES]
        pairs: list[tuple[Run, Run, Evidence]] = []
        for recipe in (*RECIPES, OTHER):
            base = base_in(folder, recipe.world)
            runs = [Run(recipe, task, start, order) for task in tasks for start in (1, 2) for order in (1, 2)]
            pairs += measured(runs, [train(run, base, folder) for run in runs])
        number = len(tasks) * 4 * (1 + len(RECIPES))
        print(f"{describe_machine()}; {number} adapters, {len(pairs)} pairs, {time.monotonic() - began:.0f} s")
    first = {*list(TASKS)[: len(TASKS) // 2]}
    own = [pair for pair in pairs if pair[0].recipe != OTHER]
    chosen = [pair for pair in own if {pair[0].task, pair[1].task} <= first]
    spread(chosen)
    confusion("chosen on (both tasks of the first half)", chosen)
    confusion("held out (all other pairs)", [pair for pair in own if pair not in chosen])
    confusion("held out (another base)", [pair for pair in pairs if pair[0].recipe == OTHER])


if __name__ == "__main__":
    main()
