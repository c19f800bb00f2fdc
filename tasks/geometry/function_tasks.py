"""Prefect tasks that need the base: its measures, the paths between updates, what the models compute. In workers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.core import home
from tasks.core.results import ModelRef, Progress, RunInfo, StageResult
from tasks.core.rows import rows_digest
from tasks.core.sections import EvaluationSpec, FunctionSpec, GeometrySpec, PathSpec
from tasks.core.small_files import expanded
from tasks.core.stages import BASE_MEASURES, FUNCTIONS, MERGE_LOSSES, MOMENTS, PATH, PATH_END, RETENTION, TEXTS, VISIBLE
from tasks.geometry.activations.measure import measure_moments
from tasks.geometry.base.measures import measure_base
from tasks.geometry.functions.measures import measure_functions
from tasks.geometry.functions.retention import measure_retention
from tasks.geometry.merge_losses import measure_merges
from tasks.geometry.paths.curves import End, measure_ends, measure_path
from tasks.geometry.paths.texts import text_rows
from tasks.geometry.task import COMPARED, identity
from tasks.geometry.visible import measure_visible
from tasks.grading.grade import GRADER
from tasks.models.external import reference
from tasks.models.load import computed_on
from tasks.stage import Part, can_heal, log_file, run_stage, run_stages, state_of, states_of
from tasks.storage.store import open_store
from tasks.workers.devices import run_pinned, slots


def _arguments(base: ModelRef, problems: StageResult) -> dict[str, Any]:
    store = open_store()
    return {
        "base": base.at(store.local(base.ref)),
        "problems": store.local(problems.ref) / "problems.parquet",
    }


def _adapter(trained: StageResult) -> Path:
    return open_store().local(trained.ref) / "adapter"


def _path_settings(base: ModelRef, spec: PathSpec, evaluation: EvaluationSpec) -> dict[str, Any]:
    settings = {
        "base": base.identity,
        "n": spec.n,
        "readings": list(spec.readings),
        "max_new_tokens": evaluation.max_new_tokens,  # also decides which problems fit
        "grader": GRADER if "accuracy" in spec.readings else "",
    }
    folder = open_store().local(base.ref) / base.folder
    return {**settings, "device": computed_on(slots()[0].kind, folder)}


@task(task_run_name="base measures of {title}", cache_policy=NO_CACHE, retries=1, retry_condition_fn=can_heal)
def base_task(
    title: str, infos: Sequence[RunInfo], base: ModelRef, trained: Sequence[StageResult], spec: GeometrySpec
) -> Any:
    """One result a run: artifact ``spectra.parquet`` (SPECTRA), the measures that need the base's weights.

    The runs that the cache lacks are measured together, since the base's decomposition is the same for all.
    """
    store = open_store()
    parts = [
        Part(
            BASE_MEASURES.key(
                {"adapter": result.ref.sha256},
                {"base": base.identity, "run": identity(info), "ks": list(spec.ks)},
            ),
            f"base measures {info.run}",
        )
        for info, result in zip(infos, trained, strict=True)
    ]

    def compute(missing: Sequence[int], progress: Progress) -> Mapping[int, Any]:
        # By a part that every try has, missing or not, so that the next one clears what a killed one left.
        folder = home.subfolder("staging") / f"base-{parts[0].key.digest}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        arguments = {
            "base": store.local(base.ref) / base.folder,
            "adapters": [_adapter(trained[place]) for place in missing],
            "infos": [infos[place] for place in missing],
            "ks": spec.ks,
            "out": folder,
        }
        run_pinned(measure_base, arguments, log=log_file(parts[missing[0]].key), progress=progress)

        def writer(i: int) -> Any:
            def write(out: Path, _: Progress) -> dict[str, Any]:
                shutil.move(folder / f"{i}.parquet", out / "spectra.parquet")
                if not any(folder.iterdir()):
                    folder.rmdir()
                return {}

            return write

        return {place: writer(i) for i, place in enumerate(missing)}

    return states_of(run_stages(parts, f"base measures of {title}", compute))


@task(task_run_name="visible overlap of {title}", cache_policy=NO_CACHE, retries=1, retry_condition_fn=can_heal)
def visible_task(title: str, infos: Sequence[RunInfo], base: ModelRef, trained: Sequence[StageResult]) -> Any:
    """Artifact: ``pair_metrics.parquet`` (PAIR_METRICS_FRAME) of all pairs, with ``visible_overlap`` alone."""
    inputs = {info.run: result.ref.sha256 for info, result in zip(infos, trained, strict=True)}
    key = VISIBLE.key(inputs, {"base": base.identity, "identities": [identity(info) for info in infos]})

    def compute(out: Path, progress: Progress) -> Any:
        folder = open_store().local(base.ref) / base.folder
        work = {"base": folder, "adapters": [_adapter(one) for one in trained], "infos": list(infos), "out": out}
        return run_pinned(measure_visible, work, log=log_file(key), progress=progress)

    return state_of(run_stage(key, f"visible overlap of {title}", compute))


@task(task_run_name="second moments", cache_policy=NO_CACHE, retries=1, retry_condition_fn=can_heal)
def moments_task(
    base: ModelRef, problems: StageResult, targets: Sequence[str], spec: GeometrySpec, evaluation: EvaluationSpec
) -> Any:
    """Second moments of the inputs of the modules that ``targets`` name. Artifact: ``moments.safetensors``."""
    settings = {"n": spec.activations, "max_new_tokens": evaluation.max_new_tokens}
    arguments = {**_arguments(base, problems), **settings}
    return _moments(base, {"problems": problems.ref.sha256}, targets, settings, arguments)


@task(task_run_name="second moments", cache_policy=NO_CACHE, retries=1, retry_condition_fn=can_heal)
def text_moments_task(base: ModelRef, texts: Path, targets: Sequence[str]) -> Any:
    """The same on the texts of a file (`tasks.geometry.paths.texts.texts_of`)."""
    arguments = {"base": base.at(open_store().local(base.ref)), "texts": texts}
    return _moments(base, {"texts": rows_digest(texts)}, targets, {}, arguments)


def _moments(
    base: ModelRef,
    inputs: Mapping[str, str],
    targets: Sequence[str],
    settings: Mapping[str, Any],
    arguments: Mapping[str, Any],
) -> Any:
    decides = {"base": base.identity, "targets": sorted(targets), **settings}
    decides["device"] = computed_on(slots()[0].kind, arguments["base"].folder)
    key = MOMENTS.key(inputs, decides)

    def compute(out: Path, progress: Progress) -> Any:
        work = {**arguments, "targets": list(targets), "out": out}
        return run_pinned(measure_moments, work, log=log_file(key), progress=progress)

    return state_of(run_stage(key, "second moments", compute))


@task(task_run_name="path end {info.run}", cache_policy=NO_CACHE, retries=1, retry_condition_fn=can_heal)
def end_task(
    info: RunInfo,
    base: ModelRef,
    problems: StageResult,
    trained: StageResult | None,
    spec: PathSpec,
    evaluation: EvaluationSpec,
) -> Any:
    """One adapter's readings, shared by all its paths; without ``trained`` the base's, in which no path ends.

    Artifact: ``ends.parquet`` (`connectivity.ENDS`), of the base also ``connectivity.parquet``.
    """
    inputs = {"adapter": trained.ref.sha256 if trained else "", "problems": problems.ref.sha256}
    settings = _path_settings(base, spec, evaluation) | ({} if trained else {"run": info.run})
    key = PATH_END.key(inputs, settings)

    def compute(out: Path, progress: Progress) -> Any:
        arguments = {
            **_arguments(base, problems),
            "run": info.run,
            "adapter": _adapter(trained) if trained else None,
            "spec": spec,
            "batch_size": evaluation.batch_size,
            "max_new_tokens": evaluation.max_new_tokens,
            "out": out,
        }
        return run_pinned(measure_ends, arguments, log=log_file(key), progress=progress)

    return state_of(run_stage(key, f"path end {info.run}", compute))


@task(task_run_name="path {a.run}~{b.run}", cache_policy=NO_CACHE, retries=1, retry_condition_fn=can_heal)
def path_task(
    a: RunInfo,
    b: RunInfo,
    base: ModelRef,
    problems: StageResult,
    trained: tuple[StageResult, StageResult],
    ends: tuple[StageResult, StageResult],
    spec: PathSpec,
    evaluation: EvaluationSpec,
) -> Any:
    """Artifact: ``connectivity.parquet``, ``barriers.parquet`` (schemas of their names), ``path_items.parquet``."""
    inputs = {"a": trained[0].ref.sha256, "b": trained[1].ref.sha256, "problems": problems.ref.sha256}
    settings = {
        **_path_settings(base, spec, evaluation),
        "runs": [a.run, b.run],
        "alphas": list(spec.alphas),
        "matched": spec.matched,
    }
    key = PATH.key(inputs, settings)

    def compute(out: Path, progress: Progress) -> Any:
        store = open_store()
        arguments = {
            **_arguments(base, problems),
            "a": End(a.run, _adapter(trained[0]), store.local(ends[0].ref) / "ends.parquet"),
            "b": End(b.run, _adapter(trained[1]), store.local(ends[1].ref) / "ends.parquet"),
            "spec": spec,
            "batch_size": evaluation.batch_size,
            "max_new_tokens": evaluation.max_new_tokens,
            "out": out,
        }
        return run_pinned(measure_path, arguments, log=log_file(key), progress=progress)

    return state_of(run_stage(key, f"path {a.run}~{b.run}", compute))


@task(task_run_name="functions of {title}", cache_policy=NO_CACHE, retries=1, retry_condition_fn=can_heal)
def functions_task(
    title: str,
    infos: Sequence[RunInfo],
    base: ModelRef,
    problems: StageResult,
    trained: Sequence[StageResult | None],
    spec: FunctionSpec,
    evaluation: EvaluationSpec,
) -> Any:
    """CKA, logit lens and KL of all models in one pass. Artifact: ``cka``, ``lens``, ``divergence`` (parquet)."""
    inputs = {info.run: result.ref.sha256 if result else "" for info, result in zip(infos, trained, strict=True)}
    settings = {"base": base.identity, "n": spec.n, "pooling": spec.pooling, "runs": [info.run for info in infos]}
    settings |= {"max_new_tokens": evaluation.max_new_tokens, "device": slots()[0].kind}
    key = FUNCTIONS.key({**inputs, "problems": problems.ref.sha256}, settings)

    def compute(out: Path, progress: Progress) -> Any:
        arguments = {
            **_arguments(base, problems),
            "adapters": {
                info.run: _adapter(result) if result else None for info, result in zip(infos, trained, strict=True)
            },
            "spec": spec,
            "max_new_tokens": evaluation.max_new_tokens,
            "out": out,
        }
        return run_pinned(measure_functions, arguments, log=log_file(key), progress=progress)

    return state_of(run_stage(key, f"functions of {title}", compute))


@task(task_run_name="texts", cache_policy=NO_CACHE)
def texts_task(spec: FunctionSpec) -> Any:
    """Artifact: ``texts.jsonl``, the rows of ``functions.texts`` that are read (`text_rows`)."""
    file = expanded(str(spec.texts))

    def compute(out: Path, _: Progress) -> dict[str, Any]:
        rows = text_rows(file)
        (out / "texts.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        return {"texts": len(rows)}

    return state_of(run_stage(TEXTS.key({"file": rows_digest(file)}, {}), "texts", compute))


@task(task_run_name="retention of {title}", cache_policy=NO_CACHE, retries=1, retry_condition_fn=can_heal)
def retention_task(
    title: str,
    infos: Sequence[RunInfo],
    base: ModelRef,
    problems: StageResult,
    answers: Sequence[Sequence[StageResult]],
    trained: Sequence[StageResult | None],
    texts: StageResult | None,
    own_style: bool,
    spec: FunctionSpec,
    evaluation: EvaluationSpec,
) -> Any:
    """Artifact: ``retention.parquet`` (RETENTION), ``own_answers.parquet`` (OWN_ANSWERS). ``infos``: the base first.

    ``answers``: what `evaluate_task` returned, of these runs among others.
    """
    asked = [result for some in answers for result in some]
    drawn = bool(evaluation.samples) and evaluation.temperature == 1
    inputs = {f"answers {i}": result.ref.sha256 for i, result in enumerate(asked)}
    inputs |= {info.run: result.ref.sha256 if result else "" for info, result in zip(infos, trained, strict=True)}
    inputs |= {"problems": problems.ref.sha256, "texts": texts.ref.sha256 if texts else ""}
    settings = {"base": base.identity, "n": spec.n, "runs": [identity(info) for info in infos], "drawn": drawn}
    settings |= {"own_style": own_style, "max_new_tokens": evaluation.max_new_tokens, "device": slots()[0].kind}
    key = RETENTION.key(inputs, settings)

    def compute(out: Path, progress: Progress) -> Any:
        store = open_store()
        arguments = {
            **_arguments(base, problems),
            "items": [store.local(result.ref) / "items.parquet" for result in asked],
            "infos": list(infos),
            "adapters": [_adapter(result) if result else None for result in trained],
            "spec": spec,
            "max_new_tokens": evaluation.max_new_tokens,
            "drawn": drawn,
            "own_style": own_style,
            "texts": store.local(texts.ref) / "texts.jsonl" if texts else None,
            "out": out,
        }
        return run_pinned(measure_retention, arguments, log=log_file(key), progress=progress)

    return state_of(run_stage(key, f"retention of {title}", compute))


@task(task_run_name="merge losses of {title}", cache_policy=NO_CACHE, retries=1, retry_condition_fn=can_heal)
def merge_losses_task(title: str, base: ModelRef, texts: Path, adapters: Sequence[tuple[str, Path]]) -> Any:
    """Losses from the first adapter to each other one. Artifact: ``merge_losses.parquet`` (MERGE_LOSSES)."""
    local = base.at(open_store().local(base.ref))
    inputs = {f"adapter {name}": reference(folder, COMPARED).sha256 for name, folder in adapters}
    settings = {"base": base.identity, "runs": [name for name, _ in adapters]}
    settings["device"] = computed_on(slots()[0].kind, local.folder)
    key = MERGE_LOSSES.key({**inputs, "texts": rows_digest(texts)}, settings)

    def compute(out: Path, progress: Progress) -> Any:
        work = {"base": local, "texts": texts, "adapters": list(adapters), "out": out}
        return run_pinned(measure_merges, work, log=log_file(key), progress=progress)

    return state_of(run_stage(key, f"merge losses of {title}", compute))
