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

from tasks.core import home
from tasks.core.results import Progress, RunInfo, Soup, StageResult, Truncated
from tasks.core.sections import GeometrySpec
from tasks.core.stages import ACTIVATIONS, COMPARE, GEOMETRY, SOUP, SPECTRUM, TRAJECTORY, TRUNCATE
from tasks.geometry.activations.moments import read_moments
from tasks.geometry.activations.pairs import activation_frame
from tasks.geometry.adapters.adapter import AdapterSource
from tasks.geometry.adapters.peft_config import is_dora
from tasks.geometry.delta import unshared
from tasks.geometry.paths.rate import with_rate
from tasks.geometry.tables.build import pair_frame, spectrum_frame
from tasks.geometry.trajectory import trajectory_frame
from tasks.geometry.updates.soups import write_soup
from tasks.geometry.updates.truncated import write_truncated
from tasks.models.external import reference
from tasks.stage import run_stage, state_of
from tasks.storage.store import open_store

if TYPE_CHECKING:
    from tasks.geometry.compare import Named

COMPARED = ("*.json", "*.safetensors")
"""The files of an adapter or a model that decide its update."""


def _digests(adapters: Sequence[Named], base: Path | None) -> dict[str, str]:
    found = {f"adapter {adapter.info.run}": reference(adapter.folder, COMPARED).sha256 for adapter in adapters}
    return found if base is None else found | {"base": reference(base, COMPARED).sha256}


def _open(trained: StageResult) -> AdapterSource:
    return AdapterSource(open_store().local(trained.ref) / "adapter")


def identity(info: RunInfo) -> list[str | int | float | None]:
    """What of a run's identity stands in its tables, for cache keys."""
    return [info.run, info.method, info.seed, info.data_seed, info.lr]


@task(task_run_name="spectrum {info.run}", cache_policy=NO_CACHE)
def spectrum_task(info: RunInfo, trained: StageResult) -> Any:
    """Artifact: ``spectra.parquet`` (SPECTRA)."""
    key = SPECTRUM.key({"adapter": trained.ref.sha256}, {"run": identity(info)})

    def compute(out: Path, _: Progress) -> dict[str, Any]:
        frame = spectrum_frame(_open(trained), info)
        frame.write_parquet(out / "spectra.parquet")
        return {"modules": frame["module"].n_unique() - 1}

    return state_of(run_stage(key, f"spectrum {info.run}", compute))


@task(task_run_name="truncate {one.info.run}", cache_policy=NO_CACHE)
def truncate_task(one: Truncated, trained: StageResult) -> Any:
    """Artifact: ``adapter/`` as `train_task`'s, of this part of the update."""
    key = TRUNCATE.key({"adapter": trained.ref.sha256}, {"part": one.part, "k": one.k})

    def compute(out: Path, _: Progress) -> dict[str, Any]:
        write_truncated(open_store().local(trained.ref) / "adapter", one.k, one.part, out / "adapter")
        return {}

    return state_of(run_stage(key, f"truncate {one.info.run}", compute))


@task(task_run_name="trajectory {info.run}", cache_policy=NO_CACHE)
def trajectory_task(
    info: RunInfo,
    steps: Sequence[int],
    kept: Sequence[StageResult],
    trained: StageResult,
    gradients: StageResult | None = None,
) -> Any:
    """Artifact: ``trajectories.parquet`` (TRAJECTORIES) of one run. ``steps``: of the adapters ``kept``.

    ``gradients``: of the initialisation that the run began from; a method that has none there is measured without.
    """
    last = int(trained.summary["steps"] or 0)
    inputs = {f"step {step}": result.ref.sha256 for step, result in zip(steps, kept, strict=True)}
    inputs |= {"adapter": trained.ref.sha256} | ({"gradient": gradients.ref.sha256} if gradients else {})
    key = TRAJECTORY.key(inputs, {"run": identity(info), "steps": [*steps, last]})

    def compute(out: Path, progress: Progress) -> dict[str, Any]:
        direction = open_store().local(gradients.ref) / "directions" / info.method if gradients else None
        towards = AdapterSource(direction) if direction and direction.is_dir() else None
        sources = [_open(result) for result in (*kept, trained)]
        frame = trajectory_frame(info, sources, [*steps, last], towards, progress)
        frame.write_parquet(out / "trajectories.parquet")
        return {}

    return state_of(run_stage(key, f"trajectory {info.run}", compute))


@task(task_run_name="soup {soup.name}", cache_policy=NO_CACHE)
def soup_task(soup: Soup, trained: Sequence[StageResult]) -> Any:
    """Artifact: ``adapter/`` as `train_task`'s, of the sum or the mean of these updates."""
    key = SOUP.key({str(i): result.ref.sha256 for i, result in enumerate(trained)}, {"weight": soup.weight})

    def compute(out: Path, _: Progress) -> dict[str, Any]:
        write_soup([open_store().local(one.ref) / "adapter" for one in trained], soup.weight, out / "adapter")
        return {}

    return state_of(run_stage(key, f"soup {soup.name}", compute))


@task(task_run_name="geometry {a.run}~{b.run}", cache_policy=NO_CACHE)
def pair_task(a: RunInfo, b: RunInfo, trained_a: StageResult, trained_b: StageResult, spec: GeometrySpec) -> Any:
    """Artifact: ``pair_metrics.parquet`` (PAIR_METRICS_FRAME); the summary counts modules that only one side has."""
    inputs = {"a": trained_a.ref.sha256, "b": trained_b.ref.sha256}
    key = GEOMETRY.key(inputs, {"a": identity(a), "b": identity(b), "ks": list(spec.ks)})

    def compute(out: Path, _: Any) -> dict[str, Any]:
        left, right = _open(trained_a), _open(trained_b)
        pair_frame(left, right, a, b, spec.ks).write_parquet(out / "pair_metrics.parquet")
        only_a, only_b = unshared(left, right)
        return {"only_a": len(only_a), "only_b": len(only_b)}

    return state_of(run_stage(key, f"geometry {a.run}~{b.run}", compute))


@task(task_run_name="activation geometry of {title}", cache_policy=NO_CACHE)
def activations_task(title: str, infos: Sequence[RunInfo], trained: Sequence[StageResult], moments: StageResult) -> Any:
    """Artifact: ``pair_metrics.parquet`` (PAIR_METRICS_FRAME) of all pairs, with ``activation_cosine`` alone."""
    inputs = {f"adapter {info.run}": result.ref.sha256 for info, result in zip(infos, trained, strict=True)}
    key = ACTIVATIONS.key({**inputs, "moments": moments.ref.sha256}, {"identities": [identity(one) for one in infos]})

    def compute(out: Path, progress: Progress) -> dict[str, Any]:
        found = read_moments(open_store().local(moments.ref))
        frame = activation_frame([_open(result) for result in trained], infos, found, with_rate(progress, "modules"))
        frame.write_parquet(out / "pair_metrics.parquet")
        return {}

    return state_of(run_stage(key, f"activation geometry of {title}", compute))


@task(task_run_name="activation geometry of {title}", cache_policy=NO_CACHE)
def weigh_task(title: str, adapters: Sequence[Named], base: Path, moments: StageResult) -> Any:
    """The same of adapters that exist already."""
    inputs = _digests(adapters, base) | {"moments": moments.ref.sha256}
    key = ACTIVATIONS.key(inputs, {"identities": [identity(adapter.info) for adapter in adapters]})

    def compute(out: Path, progress: Progress) -> dict[str, Any]:
        from tasks.geometry.compare import weigh

        found = read_moments(open_store().local(moments.ref))
        with tempfile.TemporaryDirectory(prefix="compare-", dir=home.subfolder("staging")) as scratch:
            frame = weigh(adapters, base, found, Path(scratch), with_rate(progress, "modules"))
        frame.write_parquet(out / "pair_metrics.parquet")
        return {}

    return state_of(run_stage(key, f"activation geometry of {title}", compute))


@task(task_run_name="compare {title}", cache_policy=NO_CACHE)
def compare_task(title: str, adapters: Sequence[Named], base: Path | None, ks: Sequence[int]) -> Any:
    """Artifact: the four frames of `tasks.geometry.compare.Comparison` as parquet, and ``notes.json``.

    The work is done by threads of this process. Where the adapters lie is no part of the artifact: ``source`` is null.
    """
    settings: dict[str, Any] = {"identities": [identity(a.info) for a in adapters], "ks": list(ks)}
    if base is not None:
        settings["base"] = "where updates lie"  # measured since; of the same version without a base
    if any(is_dora(adapter.folder) for adapter in adapters):
        settings["dora"] = "from factors"  # it was merged before: another result under the same version
    key = COMPARE.key(_digests(adapters, base), settings)

    def compute(out: Path, progress: Progress) -> dict[str, Any]:
        from tasks.geometry.compare import compare

        progress(0, 0, "")
        with tempfile.TemporaryDirectory(prefix="compare-", dir=home.subfolder("staging")) as scratch:
            found = compare(adapters, ks, base, Path(scratch), with_rate(progress, "modules"))
        replace(found, adapters=found.adapters.with_columns(source=pl.lit(None, pl.String()))).write(out)
        return {"adapters": len(adapters), "pairs": len(adapters) * (len(adapters) - 1) // 2}

    return state_of(run_stage(key, f"compare {title}", compute))
