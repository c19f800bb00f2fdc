"""Prefect tasks: the spectrum of one update, the geometry of a pair, and the comparison of adapters that exist."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks import home
from tasks.contracts import ModelRef, Progress, RunInfo, StageResult
from tasks.devices import run_pinned, slots
from tasks.geometry.adapter import AdapterSource
from tasks.geometry.checkpoint import Checkpoint
from tasks.geometry.delta import unshared
from tasks.geometry.functions import measure_functions
from tasks.geometry.paths import measure_ends, measure_path
from tasks.geometry.rate import with_rate
from tasks.geometry.tables import pair_frame, spectrum_frame
from tasks.grading.grade import GRADER
from tasks.models.external import reference
from tasks.specs import EvaluationSpec, FunctionSpec, GeometrySpec, PathSpec
from tasks.stage import can_heal, log_file, run_stage, state_of
from tasks.store import StageKey, open_store

if TYPE_CHECKING:
    from tasks.geometry.compare import Named

COMPARED = ("*.json", "*.safetensors")
"""The files of an adapter or a model that decide its update."""


def _open(trained: StageResult) -> AdapterSource:
    return AdapterSource(open_store().local(trained.ref) / "adapter")


def _identity(info: RunInfo) -> list[str | int | float | None]:
    return [info.run, info.method, info.seed, info.data_seed, info.lr]


@task(task_run_name="spectrum {info.run}", cache_policy=NO_CACHE)
def spectrum_task(info: RunInfo, trained: StageResult, base: ModelRef, spec: GeometrySpec) -> Any:
    """Artifact: ``spectra.parquet`` (SPECTRA), with ``spec.base_measures`` those too that need the base's weights."""
    inputs = {"adapter": trained.ref.sha256, **({"base": base.ref.sha256} if spec.base_measures else {})}
    key = StageKey("spectrum", 2, inputs, {"run": _identity(info), "base": base.folder, "ks": list(spec.ks)})

    def compute(out: Path, progress: Progress) -> dict[str, Any]:
        weights = Checkpoint(open_store().local(base.ref) / base.folder) if spec.base_measures else None
        frame = spectrum_frame(_open(trained), info, spec.ks, weights, progress)
        frame.write_parquet(out / "spectra.parquet")
        return {"modules": frame["module"].n_unique() - 1}

    return state_of(run_stage(key, f"spectrum {info.run}", compute))


@task(task_run_name="geometry {a.run}~{b.run}", cache_policy=NO_CACHE)
def pair_task(a: RunInfo, b: RunInfo, trained_a: StageResult, trained_b: StageResult, spec: GeometrySpec) -> Any:
    """Artifact: ``pair_metrics.parquet`` (PAIR_METRICS_FRAME); the summary counts modules that only one side has."""
    inputs = {"a": trained_a.ref.sha256, "b": trained_b.ref.sha256}
    key = StageKey("geometry", 2, inputs, {"a": _identity(a), "b": _identity(b), "ks": list(spec.ks)})

    def compute(out: Path, _: Any) -> dict[str, Any]:
        left, right = _open(trained_a), _open(trained_b)
        pair_frame(left, right, a, b, spec.ks).write_parquet(out / "pair_metrics.parquet")
        only_a, only_b = unshared(left, right)
        return {"only_a": len(only_a), "only_b": len(only_b)}

    return state_of(run_stage(key, f"geometry {a.run}~{b.run}", compute))


def _base_arguments(base: ModelRef, problems: StageResult) -> dict[str, Any]:
    store = open_store()
    return {
        "base": store.local(base.ref) / base.folder,
        "problems": store.local(problems.ref) / "problems.parquet",
        "prompt_template": base.prompt_template,
        "pad_token": base.pad_token,
        "max_length": base.max_length,
    }


def _adapter(trained: StageResult) -> Path:
    return open_store().local(trained.ref) / "adapter"


def _path_settings(base: ModelRef, spec: PathSpec, evaluation: EvaluationSpec) -> dict[str, Any]:
    generated = [evaluation.max_new_tokens, GRADER] if "accuracy" in spec.readings else []
    settings = {"base": base.identity, "n": spec.n, "readings": list(spec.readings), "generated": generated}
    return {**settings, "device": slots()[0].kind}


@task(task_run_name="path end {info.run}", cache_policy=NO_CACHE, retries=1, retry_condition_fn=can_heal)
def end_task(
    info: RunInfo,
    base: ModelRef,
    problems: StageResult,
    trained: StageResult,
    spec: PathSpec,
    evaluation: EvaluationSpec,
) -> Any:
    """One adapter's readings, shared by all its paths. Artifact: ``ends.parquet`` (`connectivity.ENDS`)."""
    inputs = {"adapter": trained.ref.sha256, "problems": problems.ref.sha256}
    key = StageKey("path end", 1, inputs, _path_settings(base, spec, evaluation))

    def compute(out: Path, progress: Progress) -> Any:
        arguments = {
            **_base_arguments(base, problems),
            "adapter": _adapter(trained),
            "n": spec.n,
            "readings": spec.readings,
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
    key = StageKey("path", 1, inputs, settings)

    def compute(out: Path, progress: Progress) -> Any:
        store = open_store()
        arguments = {
            **_base_arguments(base, problems),
            "adapter_a": _adapter(trained[0]),
            "adapter_b": _adapter(trained[1]),
            "run_a": a.run,
            "run_b": b.run,
            "ends": {side: store.local(end.ref) / "ends.parquet" for side, end in zip("ab", ends, strict=True)},
            "n": spec.n,
            "alphas": spec.alphas,
            "readings": spec.readings,
            "matched": spec.matched,
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
) -> Any:
    """CKA, logit lens and KL of all models in one pass. Artifact: ``cka``, ``lens``, ``divergence`` (parquet)."""
    inputs = {info.run: result.ref.sha256 if result else "" for info, result in zip(infos, trained, strict=True)}
    settings = {"base": base.identity, "n": spec.n, "pooling": spec.pooling, "runs": [info.run for info in infos]}
    settings["device"] = slots()[0].kind
    key = StageKey("functions", 1, {**inputs, "problems": problems.ref.sha256}, settings)

    def compute(out: Path, progress: Progress) -> Any:
        arguments = {
            **_base_arguments(base, problems),
            "adapters": {
                info.run: _adapter(result) if result else None for info, result in zip(infos, trained, strict=True)
            },
            "n": spec.n,
            "pooling": spec.pooling,
            "batch_size": spec.batch_size,
            "out": out,
        }
        return run_pinned(measure_functions, arguments, log=log_file(key), progress=progress)

    return state_of(run_stage(key, f"functions of {title}", compute))


@task(task_run_name="compare {title}", cache_policy=NO_CACHE)
def compare_task(title: str, adapters: Sequence[Named], base: Path | None, ks: Sequence[int]) -> Any:
    """Artifact: the four frames of `tasks.geometry.compare.Comparison` as parquet, and ``notes.json``.

    The work is done by threads of this process. Where the adapters lie is no part of the artifact: ``source`` is null.
    """
    inputs = {f"adapter {adapter.info.run}": reference(adapter.folder, COMPARED).sha256 for adapter in adapters}
    if base is not None:
        inputs["base"] = reference(base, COMPARED).sha256
    key = StageKey("compare", 1, inputs, {"identities": [_identity(a.info) for a in adapters], "ks": list(ks)})

    def compute(out: Path, progress: Progress) -> dict[str, Any]:
        from tasks.geometry.compare import compare

        progress(0, 0, "")
        with tempfile.TemporaryDirectory(prefix="compare-", dir=home.subfolder("staging")) as scratch:
            found = compare(adapters, ks, base, Path(scratch), with_rate(progress, "modules"))
        replace(found, adapters=found.adapters.with_columns(source=pl.lit(None, pl.String()))).write(out)
        return {"adapters": len(adapters), "pairs": len(adapters) * (len(adapters) - 1) // 2}

    return state_of(run_stage(key, f"compare {title}", compute))
