"""Prefect tasks: the spectrum of one update, and the geometry of a pair of updates."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.contracts import RunInfo, StageResult
from tasks.geometry.delta import LoraDelta, load_delta, unshared
from tasks.geometry.metrics import pair_frame
from tasks.geometry.spectrum import spectrum_frame
from tasks.specs import GeometrySpec
from tasks.stage import run_stage, state_of
from tasks.store import StageKey, open_store


@lru_cache(maxsize=32)
def _delta(folder: Path, sha256: str) -> LoraDelta:
    """Adapters are read once per process; ``sha256`` names the content."""
    return load_delta(folder)


def _load(trained: StageResult) -> LoraDelta:
    return _delta(open_store().local(trained.ref) / "adapter", trained.ref.sha256)


def _identity(info: RunInfo) -> list[str | int | float]:
    return [info.run, info.method, info.seed, info.data_seed, info.lr]


@task(task_run_name="spectrum {info.run}", cache_policy=NO_CACHE)
def spectrum_task(info: RunInfo, trained: StageResult) -> Any:
    """Artifact: ``spectra.parquet`` (SPECTRA)."""
    key = StageKey("spectrum", 1, {"adapter": trained.ref.sha256}, {"run": _identity(info)})

    def compute(out: Path, _: Any) -> dict[str, Any]:
        frame = spectrum_frame(_load(trained), info)
        frame.write_parquet(out / "spectra.parquet")
        return {"modules": frame["module"].n_unique() - 1}

    return state_of(run_stage(key, f"spectrum {info.run}", compute))


@task(task_run_name="geometry {a.run}~{b.run}", cache_policy=NO_CACHE)
def pair_task(a: RunInfo, b: RunInfo, trained_a: StageResult, trained_b: StageResult, spec: GeometrySpec) -> Any:
    """Artifact: ``pair_metrics.parquet`` (PAIR_METRICS_FRAME); the summary counts modules that only one side has."""
    inputs = {"a": trained_a.ref.sha256, "b": trained_b.ref.sha256}
    key = StageKey("geometry", 1, inputs, {"a": _identity(a), "b": _identity(b), "ks": list(spec.ks)})

    def compute(out: Path, _: Any) -> dict[str, Any]:
        left, right = _load(trained_a), _load(trained_b)
        pair_frame(left, right, a, b, spec.ks).write_parquet(out / "pair_metrics.parquet")
        only_a, only_b = unshared(left, right)
        return {"only_a": len(only_a), "only_b": len(only_b)}

    return state_of(run_stage(key, f"geometry {a.run}~{b.run}", compute))
