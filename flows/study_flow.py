"""The study: problems -> rollouts -> one task per method -> evaluation and one task per pair -> report.

Read top to bottom it is the method section of the paper. Every line that calls a task is one node in Prefect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, runtime
from prefect.futures import PrefectFuture

from flows.cluster.ray_cluster import for_nodes, task_runner
from flows.form import titled
from flows.record import Recorder
from tasks.core.clock import now
from tasks.core.results import ModelRef, RunInfo, StageResult
from tasks.core.stages import KEPT
from tasks.evaluation.task import accuracy_task, evaluate_task, kept_accuracy_task, soups_task, truncation_task
from tasks.geometry.function_tasks import (
    base_task,
    end_task,
    functions_task,
    moments_task,
    path_task,
    retention_task,
    texts_task,
    visible_task,
)
from tasks.geometry.task import activations_task, pair_task, soup_task, spectrum_task, trajectory_task, truncate_task
from tasks.grading.task import grade_task
from tasks.models.dequantise import KIND as GGUF
from tasks.models.task import dequantise_task, pretrain_task
from tasks.planning.preflight import check_selections, distilled, preflight
from tasks.problems.task import own_problems_task, problems_task
from tasks.reporting.task import report_task
from tasks.rollouts.task import completions_task, own_rollouts_task, prompts_task, sample_task
from tasks.settings.presets import preset
from tasks.settings.study import StudySpec, build
from tasks.storage.store import open_store
from tasks.training.task import gradients_task, train_task

BASE = RunInfo("base", "base", 0, 0, 0.0)
INSTRUCTED = RunInfo("base-instructed", "base-instructed", 0, 0, 0.0)
TEACHER = RunInfo("teacher", "teacher", 0, 0, 0.0)


DEFAULT = build(preset("tiny"))


@dataclass(frozen=True)
class StudyOutcome:
    """Where a finished study is, and how much of it was there already."""

    page: str
    study_run: str
    flow_run: str
    computed: int
    hits: int
    wall_seconds: float
    base: ModelRef
    problems: StageResult
    trained: tuple[tuple[RunInfo, StageResult], ...]
    diverged: tuple[dict[str, Any], ...]
    """The runs that were left out: RunInfo's fields, ``reason``, and whether it was ``found``."""


@dataclass(frozen=True)
class World:
    """What methods are trained on and judged by."""

    base: ModelRef
    rollouts: Any  # a future
    problems: StageResult
    teacher: ModelRef | None
    distilled: ModelRef | None
    """Whose distribution distillation follows: that teacher, or the user's own."""

    @property
    def instructed(self) -> list[RunInfo]:
        """The base asked in the teacher's style, where there is one to ask for."""
        return [INSTRUCTED] if self.teacher is not None else []


@flow(
    name="study",
    flow_run_name="study {spec.name} seed={spec.seed}",
    task_runner=task_runner(),
    validate_parameters=True,
)
def study_flow(
    spec: Annotated[StudySpec, titled("Settings of the study")] = DEFAULT,
    out: Annotated[str | None, titled("Folder of the report")] = None,
    sweep: Annotated[str | None, titled("Sweep (filled in by sweeps)")] = None,
) -> StudyOutcome:
    """Train the methods on identical rollouts, measure how they move the weights and what that does to accuracy.

    Args:
        spec: All that decides the study; the default is the synthetic task, which needs nothing but this machine.
        out: Folder of the report; by default one under ``runs/``.
        sweep: MLflow run of the sweep that this study is a cell of.
    """
    base = preflight(spec, Path(out) if out else None)
    with Recorder(spec, out, sweep) as record:
        world = _own_world(spec, base, record) if base else _embedded_world(spec, record)
        teacher = _teacher(spec, world)  # needs no rollouts: it fills the devices that sampling leaves free
        rollouts, graded = record.stages([world.rollouts, grade_task.submit(world.rollouts)])
        record.doubt_rewards(graded)
        check_selections(
            {info.run: spec.method(info.method) for info in spec.runs()},
            open_store().local(graded.ref) / "rollouts.parquet",
            spec.train.mask_truncated,
        )
        training: dict[RunInfo, Any] = {  # futures: Prefect hands their results to the tasks that take them
            info: train_task.submit(
                info, spec.method(info.method), spec.train, spec.lora, world.base, graded, record.study_run,
                world.distilled if spec.method(info.method).from_teacher else None,
            )
            for info in _longest_first(spec.runs(), spec)
        }  # fmt: skip
        # At once: what is trained first is measured beside other trainings.
        measuring = _measure(spec, world, graded, training)
        survivors = record.survivors(training)
        if len(survivors) < len(training):  # what needed a training that diverged has failed with it
            record.note_finished(measuring)
            measuring = _measure(spec, world, graded, survivors)
        runs = [info for info in spec.runs() if info in survivors]
        trained = dict(zip(runs, record.stages([survivors[info] for info in runs]), strict=True))
        record.check_controls(trained, graded)
        measuring |= _follow(spec, world, trained, measuring)
        evaluated = record.stages([*measuring.pop("answers"), *teacher])
        scored = record.stage(accuracy_task.submit(evaluated))
        measured = {name: record.stages(futures) for name, futures in measuring.items()}
        page = report_task(
            str(record.out), record.study_run, record.summary(rollouts, world.problems, world.base, trained), scored,
            graded,
            world.problems, trained,
            [*measured["pairs"], *measured["activations"], *measured["visible"]],
            [*measured["spectra"], *measured["base"]],
            [*measured["ends"], *measured["paths"], *measured["functions"], *measured["gradients"],
             *measured["truncation"], *measured["trajectories"], *measured["retention"], *measured["soups"]],
        )  # fmt: skip
    return StudyOutcome(
        page=page,
        study_run=record.study_run,
        flow_run=str(runtime.flow_run.id or ""),
        computed=sum(not result.hit for result in record.results),
        hits=sum(result.hit for result in record.results),
        wall_seconds=now() - record.began,
        base=world.base,
        problems=world.problems,
        trained=tuple(trained.items()),
        diverged=tuple(record.diverged),
    )


def _embedded_world(spec: StudySpec, record: Recorder) -> World:
    """Pretrain student and teacher, make the problems, sample the teacher."""
    pretrained = record.stage(pretrain_task.submit(spec.tiny))
    problems = record.stage(problems_task.submit(spec.tiny, spec.rollouts, spec.evaluation, pretrained))
    rollouts: Any = sample_task.submit(spec.rollouts, pretrained, problems)
    teacher = ModelRef(pretrained.ref, "teacher")
    return World(ModelRef(pretrained.ref, "student"), rollouts, problems, teacher, teacher)


def _own_world(spec: StudySpec, base: ModelRef, record: Recorder) -> World:
    """Take in the user's rollouts, or sample their teacher, and choose the held-out problems."""
    if base.ref.kind == GGUF:
        base = replace(base, ref=record.stage(dequantise_task.submit(base.ref)).ref)
    holdout = 0.0 if spec.evaluation.problems else spec.rollouts.holdout
    prompts, completions = None, None
    if spec.rollouts.problems is not None:
        prompts = record.stage(prompts_task.submit(spec.rollouts, holdout))
        completions = record.stage(completions_task.submit(spec.rollouts, prompts, base.instruction))
    rollouts: Any = own_rollouts_task.submit(spec.rollouts, holdout, base, prompts, completions)
    problems = record.stage(own_problems_task.submit(spec.evaluation, rollouts, base.instruction))
    teacher = distilled(spec)
    return World(for_nodes(base), rollouts, problems, None, for_nodes(teacher) if teacher else None)


def _measure(
    spec: StudySpec, world: World, graded: StageResult, training: dict[RunInfo, Any]
) -> dict[str, list[PrefectFuture[Any]]]:
    """How the runs answer, and how they differ: in gradients, in weights, on the way between, in what they compute."""
    runs = [info for info in spec.runs() if info in training]
    pairs = list(combinations(runs, 2))
    on = (world.base, world.problems)
    answers: Any = evaluate_task.submit(
        f"base and {len(runs)} adapters", [BASE, *runs, *world.instructed], *on,
        spec.evaluation, [None, *(training[info] for info in runs), *(None for _ in world.instructed)],
    )  # fmt: skip
    found = {
        "answers": [answers],
        "spectra": [spectrum_task.submit(info, training[info]) for info in runs],
        "pairs": [pair_task.submit(a, b, training[a], training[b], spec.geometry) for a, b in pairs],
        "base": [],
        "visible": [],
        "moments": [],
        "activations": [],
        "ends": [],
        "paths": [],
        "functions": [],
        "gradients": [],
        "truncated": [],
        "truncation": [],
        "texts": [],
        "retention": [],
        "souped": [],
        "soups": [],
    }
    title = f"{len(runs)} adapters"
    if spec.geometry.base_measures:
        everyone: Any = [training[info] for info in runs]
        found["base"] = [base_task.submit(title, runs, world.base, everyone, spec.geometry)]
        if pairs:
            found["visible"] = [visible_task.submit(title, runs, world.base, everyone)]
    if spec.geometry.activations and pairs:
        moments: Any = moments_task.submit(*on, spec.lora.targets, spec.geometry, spec.evaluation)
        everyone = [training[info] for info in runs]
        found["moments"] = [moments]
        found["activations"] = [activations_task.submit(title, runs, everyone, moments)]
    alike = spec.path_pairs(runs)
    if spec.paths.n and alike:
        ends: dict[RunInfo, Any] = {
            info: end_task.submit(info, *on, training.get(info), spec.paths, spec.evaluation) for info in [BASE, *runs]
        }
        found["ends"] = list(ends.values())
        found["paths"] = [
            path_task.submit(a, b, *on, (training[a], training[b]), (ends[a], ends[b]), spec.paths, spec.evaluation)
            for a, b in alike
        ]
    if spec.gradients.n:
        methods = {name: spec.method(name) for name in spec.methods}
        found["gradients"] = [
            gradients_task.submit(methods, spec.train, spec.lora, spec.seed, spec.gradients, world.base, graded)
        ]
    if spec.functions.n:
        everyone = [None, *(training[info] for info in runs)]
        found["functions"] = [
            functions_task.submit(f"base and {title}", [BASE, *runs], *on, everyone, spec.functions, spec.evaluation)
        ]
        texts: Any = texts_task.submit(spec.functions) if spec.functions.texts is not None else None
        found["texts"] = [] if texts is None else [texts]
        found["retention"] = [
            retention_task.submit(f"base and {title}", [BASE, *runs], *on, [answers], everyone, texts, not spec.own,
                                  spec.functions, spec.evaluation)
        ]  # fmt: skip
    return found | _truncate(spec, on, training, answers) | _soup(spec, on, training, answers, found)


def _truncate(
    spec: StudySpec, on: tuple[ModelRef, StageResult], training: dict[RunInfo, Any], answers: Any
) -> dict[str, list[PrefectFuture[Any]]]:
    """What each direction carries: truncated updates are asked and measured as the whole ones are."""
    parts = spec.truncated([info for info in spec.runs() if info in training])
    if not parts:
        return {}
    names = [one.info for one in parts]
    adapters: Any = [truncate_task.submit(one, training[one.of]) for one in parts]
    greedy = spec.evaluation.model_copy(update={"samples": 0})
    asked: Any = evaluate_task.submit(f"{len(parts)} truncated adapters", names, *on, greedy, adapters)
    functions: Any = []
    for of in dict.fromkeys(one.of for one in parts) if spec.functions.n else ():
        own = [i for i, one in enumerate(parts) if one.of == of]
        infos = [BASE, of, *(names[i] for i in own)]
        models = [None, training[of], *(adapters[i] for i in own)]
        title = f"truncated {of.run}"
        functions.append(functions_task.submit(title, infos, *on, models, spec.functions, greedy))
    joined = truncation_task.submit(parts, spec.lora.r, answers, asked, functions)
    return {"truncated": [*adapters, asked, *functions], "truncation": [joined]}


def _follow(
    spec: StudySpec,
    world: World,
    trained: dict[RunInfo, StageResult],
    measuring: dict[str, list[PrefectFuture[Any]]],
) -> dict[str, list[PrefectFuture[Any]]]:
    """How each update became what it is, from the adapters that its training kept, and with what accuracy if asked."""
    kept = spec.kept(list(trained))
    if not kept:
        return {"trajectories": []}
    adapters = {(one.of, one.step): _kept(trained[one.of], one.step) for one in kept}
    gradients: Any = measuring["gradients"][0] if measuring["gradients"] else None
    paths: Any = []
    for info in dict.fromkeys(one.of for one in kept):
        steps = [one.step for one in kept if one.of == info]
        own = [adapters[info, step] for step in steps]
        start = gradients if info.seed == spec.seed else None  # of another initialisation no gradient was taken
        paths.append(trajectory_task.submit(info, steps, own, trained[info], start))
    if not spec.evaluation.kept_steps:
        return {"trajectories": paths}
    greedy = spec.evaluation.model_copy(update={"samples": 0})
    title, infos = f"{len(kept)} kept steps", [one.info for one in kept]
    asked: Any = evaluate_task.submit(title, infos, world.base, world.problems, greedy, list(adapters.values()))
    answers: Any = measuring["answers"][0]
    joined = kept_accuracy_task.submit(paths, answers, asked)
    return {"kept": [*paths, asked], "trajectories": [joined]}


def _kept(trained: StageResult, step: int) -> StageResult:
    """The adapter after ``step`` that a training left."""
    return next(one for one in trained.used if one.stage == KEPT.name and one.summary["step"] == step)


def _soup(
    spec: StudySpec,
    on: tuple[ModelRef, StageResult],
    training: dict[RunInfo, Any],
    answers: Any,
    found: dict[str, list[PrefectFuture[Any]]],
) -> dict[str, list[PrefectFuture[Any]]]:
    """Do updates add? Sums and means of them are asked and measured as single ones are."""
    soups = spec.souped([info for info in spec.runs() if info in training])
    if not soups:
        return {}
    infos, title = [soup.info for soup in soups], f"{len(soups)} soups"
    adapters: Any = [soup_task.submit(soup, [training[info] for info in soup.of]) for soup in soups]
    greedy = spec.evaluation.model_copy(update={"samples": 0})
    asked: Any = evaluate_task.submit(title, infos, *on, greedy, adapters)
    kept: Any = []
    if found["retention"]:
        texts: Any = next(iter(found["texts"]), None)
        kept = [
            retention_task.submit(title, [BASE, *infos], *on, [answers, asked], [None, *adapters], texts, not spec.own,
                                  spec.functions, spec.evaluation)
        ]  # fmt: skip
    both: Any = [*found["retention"], *kept]
    return {"souped": [*adapters, asked, *kept], "soups": [soups_task.submit(soups, answers, asked, both)]}


def _teacher(spec: StudySpec, world: World) -> list[PrefectFuture[Any]]:
    """The teacher's answers, where it is at hand: a row that no method trains."""
    if world.teacher is None:
        return []
    return [evaluate_task.submit("teacher", [TEACHER], world.teacher, world.problems, spec.evaluation, [None])]


def _longest_first(runs: Sequence[RunInfo], spec: StudySpec) -> list[RunInfo]:
    """Sampling costs most and pairs twice the sequences: started first, they leave no device idle at the end."""
    order = ("prompts", "pairs", "unpaired", "rows")
    return sorted(runs, key=lambda info: order.index(spec.method(info.method).kind))
